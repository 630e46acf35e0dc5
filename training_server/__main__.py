"""The program of the training server: `splitcom server`, or `python -m training_server`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import click

from broker.engines import parse_url
from broker.errors import SettingsError
from broker.program import OneLine, emitter, one_line_errors, program_options, run, settings
from broker.topics import SERVER, Topic
from splitcom.base import check_base
from splitcom.config import EvaluationConfig
from splitcom.control import check_control
from splitcom.errors import SplitComError

FLAGS = {
    "run": "run",
    "clients": "clients",
    "broker": "broker",
    "model": "model.base",
    "data": "data.path",
    "out": "out",
}


@click.command(cls=OneLine, context_settings={"show_default": True})
@click.option("--config", metavar="FILE", help="TOML file with any of the settings; see docs/configuration.md.")
@click.option("--run", metavar="NAME", help="The name of the run.")
@click.option("--clients", metavar="N", help="How many agents to wait for.")
@click.option("--broker", metavar="URL", help="The MQTT broker, mqtt://host:port or mqtts://...")
@click.option("--model", metavar="BASE", help="The base: a directory in Hugging Face layout or a hub name.")
@click.option("--data", metavar="DIR", help="The directory with the data set's original files (for evaluation).")
@click.option("--out", metavar="DIR", help="The run directory.")
@program_options
def main(config: str | None, assignments: tuple[str, ...], events: bool, attached: bool, **flags: Any) -> None:
    """Run the training server of one run: the rest of the model, the loss, and the federated mean of the adapters.

    Settings come from the TOML file, then from SPLITCOM_SERVER_... variables, then from flags.
    """
    with one_line_errors(SplitComError):
        from training_server.config import ServerConfig

        given = {FLAGS[key]: value for key, value in flags.items()}
        parsed = settings(ServerConfig, "SPLITCOM_SERVER_", config, given, assignments)
        # What can be wrong without the model is told before the seconds that importing torch takes.
        Topic(parsed.run, SERVER, "state")
        parse_url(parsed.broker)
        check_scorer(parsed.evaluation)
        check_control(parsed.control)
        if (Path(parsed.out) / "metrics.jsonl").exists():
            raise SettingsError(f"out: {parsed.out} holds a run already; valid: a directory without metrics.jsonl")
        check_base(parsed.model)

    with one_line_errors(SplitComError):
        from training_server.program import serve

        run(serve(parsed, emitter("server", events)), attached)


def check_scorer(evaluation: EvaluationConfig) -> None:
    """Raise SettingsError if BLEU is asked for and cannot be had: the end of a run is too late to find that out."""
    if evaluation.bleu and importlib.util.find_spec("sacrebleu") is None:
        raise SettingsError(
            "evaluation.bleu: needs the package sacrebleu; valid: 0, or any number with splitcom[server] installed"
        )


if __name__ == "__main__":
    main(prog_name="python -m training_server")
