"""The corpus: for each target few small inputs that reach all that the seeds, their damage and fuzzing have reached.

`python -m tests.fuzz.corpus [DIR...]` writes it anew; DIR/TARGET are inputs to add, as a fuzzing run leaves them.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.fuzz.branches import features, reach
from tests.fuzz.hostile import HOSTILE
from tests.fuzz.seeds import SEEDS, damaged
from tests.fuzz.targets import TARGETS, target

CORPUS = Path(__file__).parent / "corpus"


def corpus(name: str) -> list[bytes]:
    """The inputs of a target."""
    return files(CORPUS / name)


def files(directory: Path) -> list[bytes]:
    """The contents of a directory's files in the order of their names, none where it does not exist."""
    return [path.read_bytes() for path in sorted(directory.glob("*"))]


def minimised(name: str, inputs: Iterable[bytes]) -> list[bytes]:
    """Of the inputs, the smallest first, those that reach something new."""
    run = target(name)
    reached: set[str] = set()
    kept = []
    for data in sorted(set(inputs), key=lambda data: (len(data), data)):
        found = features(run, data)
        if not found <= reached:
            reached |= found
            kept.append(data)
    return kept


def write(name: str, inputs: Iterable[bytes]) -> None:
    """Put the inputs in the place of the target's corpus, each under its digest."""
    directory = CORPUS / name
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("*"):
        path.unlink()
    for data in inputs:
        (directory / hashlib.sha1(data).hexdigest()[:16]).write_bytes(data)


def main(directories: list[str]) -> None:
    """Minimise seeds, their damage and further inputs, and say what the corpus reaches."""
    for name in TARGETS:
        seeds = list(SEEDS[name]())
        inputs = [*seeds, *HOSTILE[name](), *(data for seed in seeds for data in damaged(seed))]
        inputs += [data for directory in directories for data in files(Path(directory) / name)]
        kept = minimised(name, inputs)
        write(name, kept)
        found = reach(name, kept)
        print(
            f"{name}: {len(kept)} of {len(inputs)} inputs, {sum(map(len, kept))} bytes, "
            f"{found.share:.1%} of {found.branches} branches"
        )
        print("".join(f"  not taken: {line}\n" for line in found.missed), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
