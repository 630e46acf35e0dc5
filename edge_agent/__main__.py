"""The program of an agent: `splitcom agent`, or `python -m edge_agent`."""

from __future__ import annotations

from typing import Any

import click

from broker.engines import parse_url
from broker.errors import SettingsError
from broker.program import OneLine, emitter, fail, one_line_errors, program_options, run, settings
from broker.topics import SERVER, Topic
from splitcom.base import check_base
from splitcom.errors import SplitComError

FLAGS = {
    "run": "run",
    "name": "name",
    "broker": "broker",
    "model": "model.base",
    "data": "data.path",
    "out": "out",
}


@click.command(cls=OneLine, context_settings={"show_default": True})
@click.option("--config", metavar="FILE", help="TOML file with any of the settings; see docs/configuration.md.")
@click.option("--run", metavar="NAME", help="The run to take part in.")
@click.option("--name", metavar="NAME", help="This agent's name in the run.")
@click.option("--broker", metavar="URL", help="The MQTT broker, mqtt://host:port or mqtts://...")
@click.option("--model", metavar="BASE", help="The base: a directory in Hugging Face layout or a hub name.")
@click.option("--data", metavar="DIR", help="The directory with the data set's original files.")
@click.option("--shard", metavar="I/N", help="Take shard I (from 0) of N of the training set.")
@click.option("--out", metavar="DIR", help="Where the agent's ledger is written.")
@program_options
def main(
    config: str | None,
    shard: str | None,
    assignments: tuple[str, ...],
    events: bool,
    attached: bool,
    **flags: Any,
) -> None:
    """Run one agent: the first blocks of the model on this device's own texts.

    Settings come from the TOML file, then from SPLITCOM_AGENT_... variables, then from flags. What server and agents
    must share (cut, adapters, streams, training) the server sends.
    """
    with one_line_errors(SplitComError):
        from edge_agent.config import AgentConfig

        given = {FLAGS[key]: value for key, value in flags.items()}
        if shard is not None:
            number, separator, count = shard.partition("/")
            if not separator:
                raise SettingsError(f"--shard: {shard!r}; valid: I/N, for example 0/3")
            given |= {"shard": number, "shards": count}
        parsed = settings(AgentConfig, "SPLITCOM_AGENT_", config, given, assignments)
        # What can be wrong without the model is told before the seconds that importing torch takes.
        Topic(parsed.run, parsed.name, "state")
        if parsed.name == SERVER:
            raise SettingsError(f"name: {SERVER!r} is the server's own; valid: any other name")
        parse_url(parsed.broker)
        check_base(parsed.model)

    with one_line_errors(SplitComError):
        from edge_agent.program import take_part

        end = run(take_part(parsed, emitter(parsed.name, events)), attached)
    if not end.ok:
        fail(f"the run ended: {end.reason}", 1)


if __name__ == "__main__":
    main(prog_name="python -m edge_agent")
