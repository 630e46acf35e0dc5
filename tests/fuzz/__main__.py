"""`python -m tests.fuzz TARGET [libFuzzer options]`: fuzz one target until stopped or until a finding.

New inputs and findings are left in build/fuzz/TARGET and beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

from tests.fuzz.targets import TARGETS, target

MAX_INPUT_BYTES = 2048
# The instrumentation itself leaks some 200 bytes an execution, so that the limit of memory has to be a wide one.
OPTIONS = (f"-max_len={MAX_INPUT_BYTES}", "-timeout=10", "-rss_limit_mb=4096")


def main(arguments: list[str]) -> None:
    """Hand the target to libFuzzer, with every function of our packages instrumented."""
    if not arguments or arguments[0] not in TARGETS:
        sys.exit(f"usage: python -m tests.fuzz TARGET [OPTION...]; valid targets: {', '.join(TARGETS)}")
    name, *options = arguments
    with atheris.instrument_imports(include=["broker", "splitcom"]):
        run = target(name)
    found = Path("build/fuzz") / name
    found.mkdir(parents=True, exist_ok=True)
    corpus = Path(__file__).parent / "corpus" / name
    places = [str(found), str(corpus), f"-artifact_prefix={found}-"]
    atheris.Setup(["fuzz", *OPTIONS, *options, *places], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
