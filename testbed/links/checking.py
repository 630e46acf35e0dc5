"""Links made only to be measured: what `splitcom link check` does with a profile."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from testbed.links.backends import LINKS, LinksOfRun
from testbed.links.calibration import WHAT
from testbed.links.capabilities import CAN, capabilities, choose, why_not
from testbed.links.errors import LinkError
from testbed.links.lab import Lab
from testbed.links.links_config import LinksConfig


def planned(config: LinksConfig, names: list[str]) -> tuple[list[str], str]:
    """The commands that would make these links and remove them again, and why this machine cannot run them, if so.

    A back-end that is named is planned wherever its commands can be told; LinkError for what no machine can emulate.
    """
    profiles, needs = config.profiles(names), config.needs(names)
    if not config.any:
        return [], ""
    found = capabilities()
    backend, refusal = str(config.backend), None
    if backend == "auto":
        backend, _ = choose(backend, needs, found)
    else:
        refusal = why_not(backend, needs, found)
    if refusal is not None and (needs - CAN[backend] or not found["pyroute2"]):
        raise LinkError(refusal)
    links = LinksOfRun("check", profiles, config.congestion_control, Path("links.log"), lambda *_: None, config.seed)
    return LINKS[backend](links).commands(), refusal or ""


async def check_links(config: LinksConfig, names: list[str], folder: Path, seconds: float) -> dict[str, Any]:
    """Make the links, measure everything that they emulate for transfers of `seconds`, and remove them."""
    async with Lab(f"check{os.getpid()}", config, names, folder) as lab:
        checks = await lab.measure(WHAT, seconds)
        records = await lab.records()
    return {
        "backend": records["backend"],
        "why": lab.why,
        "kernel": records["kernel"],
        "congestion": records["congestion"] or "the system's own",
        "checks": [check.table() for check in checks],
        "profiles": records.get("profiles", {}),
        "facts": records.get("facts", {}),
    }
