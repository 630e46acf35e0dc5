"""The command `splitcom`: its subcommands are imported when they are called, so that each needs only its own extras."""

from __future__ import annotations

import importlib

import click

from broker.program import OneLine

SUBCOMMANDS = {
    "run": ("testbed.commands.run", "Run a scenario: broker, server and agents on this machine."),
    "demo": ("testbed.commands.demo", "Compare the methods on the built-in data in a few minutes."),
    "scenarios": ("testbed.commands.scenarios", "List the scenarios that come with the package."),
    "broker": ("broker.__main__", "Run the MQTT broker."),
    "server": ("training_server.__main__", "Run the training server of one run."),
    "agent": ("edge_agent.__main__", "Run one agent on this device."),
    "pretrain": ("testbed.commands.pretrain", "Train a small GPT-2 base on text files."),
    "bench": ("testbed.commands.bench", "Measure the product against plain training."),
    "evaluate": ("testbed.commands.evaluate", "Measure the model of a finished run with every metric."),
    "generate": ("testbed.commands.generate", "Write texts with the model of a finished run."),
    "export": ("testbed.commands.export", "Copy a run's adapter, or merge it into its base."),
    "study": ("testbed.commands.study", "Carry out the runs of a plan and compare their results."),
    "link": ("testbed.commands.link", "Emulate links: measure, show and change them."),
    "policy": ("testbed.commands.policy", "Train a policy for threshold control, or show one."),
    "pki": ("broker.pki_program", "Make and revoke the certificates of a broker and its devices."),
}


class LazyGroup(OneLine, click.Group):
    """A group whose commands are named here and imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which a new user meets them."""
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command; None for an unknown name."""
        if cmd_name not in SUBCOMMANDS:
            return None
        module = importlib.import_module(SUBCOMMANDS[cmd_name][0])
        command: click.Command = module.main
        command.name = cmd_name
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """An unknown command is answered with the valid ones."""
        if args and args[0] not in SUBCOMMANDS and not args[0].startswith("-"):
            ctx.fail(f"unknown command {args[0]!r}; valid: {', '.join(SUBCOMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in SUBCOMMANDS.items()])


@click.command(cls=LazyGroup)
@click.version_option(package_name="splitcom")
def main() -> None:
    """Split federated LoRA fine-tuning over MQTT with temporal compression."""


if __name__ == "__main__":
    main(prog_name="splitcom")
