"""Finished runs on a tiny base, as `splitcom run` leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tomli_w

from broker.settings import as_table
from tests.runs import run_tiny, tiny_scenario


def finished_run(base: Path, directory: Path, *names: str, **layer: Any) -> dict[str, Any]:
    """Carry a tiny scenario out in memory and add the configuration that `splitcom run` writes; the summary."""
    scenario = tiny_scenario(base, *names, **layer)
    summary = run_tiny(scenario, directory)
    (directory / "config.toml").write_text(tomli_w.dumps(as_table(scenario)))
    return summary
