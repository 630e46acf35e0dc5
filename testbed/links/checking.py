"""Links made only to be measured: what `splitcom link check` does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from testbed.links.lab import Lab
from testbed.links.links_config import LinksConfig


def planned(config: LinksConfig, names: list[str]) -> list[str]:
    """The commands that would make these links and remove them again."""
    return Lab("check", config, names, Path()).commands()


async def check_links(config: LinksConfig, names: list[str], folder: Path, seconds: float) -> dict[str, Any]:
    """Make the links, measure everything that they emulate for transfers of `seconds`, and remove them."""
    async with Lab(f"check{os.getpid()}", config, names, folder) as lab:
        checks = await lab.measure(("rate", "delay", "loss"), seconds)
        records = await lab.records()
    return {
        "backend": records["backend"],
        "why": lab.why,
        "kernel": os.uname().release,
        "congestion": config.congestion or "system default",
        "checks": [check.table() for check in checks],
        "profiles": records.get("profiles", {}),
        "facts": records.get("facts", {}),
    }
