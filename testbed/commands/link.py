"""`splitcom link`: look at, measure and change emulated links."""

from __future__ import annotations

from typing import Any

import click

from broker.program import one_line_errors
from testbed.commands.link_check import check, join
from testbed.commands.link_control import clear, exec_, reset, set_, show
from testbed.commands.link_options import json_option, out


@click.group()
def main() -> None:
    """Emulate links: measure what they are, see and change those of a run or of devices, remove all traces.

    A PROFILE is a preset (lte, 3g, dsl, wifi, lora, satellite), a file, or words such as
    `up=5mbit down=20mbit delay=30ms jitter=5ms loss=1% queue=100ms`; see docs/links.md.
    """


for _command in (check, join, show, set_, clear, reset, exec_):
    main.add_command(_command)


@main.command(short_help="What this machine allows.")
@json_option
def probe(as_json: bool) -> None:
    """What this kernel and these privileges allow, and which back-ends with them."""
    from testbed.links.capabilities import CAN, WHAT, capabilities, why_not

    with one_line_errors():
        found = capabilities()
    backends = {name: {"can": sorted(can), "why_not": why_not(name, {"rate"}, found)} for name, can in CAN.items()}
    backends["none"]["why_not"] = None
    for name in ("netns", "host"):
        if backends[name]["why_not"] is None:
            backends[name]["without_netem"] = why_not(name, {"rate", "delay"}, found)

    def report(result: dict[str, Any]) -> str:
        lines = [f"kernel {found['kernel']}, congestion control {found['congestion_default']}"]
        for name, told in result["backends"].items():
            lines.append(f"{name:6} {told['why_not'] or 'usable: ' + WHAT[name]}")
            if told.get("without_netem"):
                lines.append(f"{'':6} rates only: {told['without_netem'].removeprefix('links.backend: ')}")
        return "\n".join(lines)

    out({"capabilities": found, "backends": backends}, as_json, report)
