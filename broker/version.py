"""Which version of this package runs."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    """The version of the distribution, `unknown` where the package runs from a directory that was never installed."""
    try:
        return metadata.version("splitcom")
    except metadata.PackageNotFoundError:
        return "unknown"
