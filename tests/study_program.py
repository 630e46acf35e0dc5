"""Stands in for `splitcom run` in tests of studies: leaves what a finished run leaves, or does what its seed says.

Seed 13 is refused. Seed 14 waits for the end of its standard input while there is a file `hold`. Seeds 15 and 16 wait
for each other. Every start is a line of the file `started`; a FIFO `telephone` is told when somebody waits.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

REFUSED, HELD, MEETS, MET = 13, 14, 15, 16
EPOCHS = 2


def settings(arguments: list[str]) -> dict[str, str]:
    """What `--set` says, by key; the last one wins."""
    pairs = [after for word, after in itertools.pairwise(arguments) if word == "--set"]
    return dict(pair.split("=", 1) for pair in pairs)


def leave(directory: Path, seed: int, threshold: float) -> None:
    """The files of a finished run; perplexity tells the seed, bytes tell the threshold."""
    directory.mkdir(parents=True)
    kinds: dict[str, Any] = {"kinds": {"keyframe": int(1000 * threshold), "residual": 0}}
    summary: dict[str, Any] = {"end": "finished", "up": kinds, "down": kinds, "perplexity_before": 99.0, "bleu": 20.0}
    summary |= {"uplink_bytes": int(1000 * threshold), "downlink_bytes": 1000, "wall_s": 0.1, "steps": 4}
    summary |= {"total_bytes": 1000 + int(1000 * threshold), "perplexity": 10.0 + seed}
    rows: list[dict[str, Any]] = [{"row": "evaluation", "epoch": -1, "perplexity": 99.0}]
    packets = []
    for epoch in range(EPOCHS):
        rows.append({"row": "evaluation", "epoch": epoch, "perplexity": 11.0 + seed - epoch})
        packet = {"row": "packet", "stream": "activation_up", "epoch": epoch, "framing": 2, "stages": {"raw": 400}}
        packets.append(packet | {"kinds": {"keyframe": [4 - 4 * epoch, 98 - 98 * epoch], "skip": [4 * epoch, 0]}})
    (directory / "summary.json").write_text(json.dumps(summary))
    (directory / "versions.json").write_text(json.dumps({"splitcom": "0", "lz4": None}))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (directory / "ledger-agent0.jsonl").write_text("".join(json.dumps(packet) + "\n" for packet in packets))


def main(arguments: list[str]) -> None:
    given = settings(arguments)
    seed = int(given["training.seed"])
    environment = sorted(name for name in os.environ if name.startswith("SPLITCOM_"))
    record = {"arguments": arguments, "environment": environment, "threads": os.environ["OMP_NUM_THREADS"]}
    with open("started", "ab", buffering=0) as file:
        file.write(json.dumps(record).encode() + b"\n")
    if seed == REFUSED:
        sys.exit("error: data.path: nowhere is not a directory")
    if seed == HELD and os.path.exists("hold"):
        with open("telephone", "wb", buffering=0) as file:
            file.write(f"{os.getpid()}\n".encode())
        sys.stdin.buffer.read()
        Path("let-go").touch()
        sys.exit("error: let go")
    if seed in (MEETS, MET):
        with open("meeting", "rb" if seed == MEETS else "wb"):
            pass  # opening a FIFO waits for the other end
    leave(Path(arguments[arguments.index("--out") + 1]), seed, float(given.get("streams.activation_up.threshold", "1")))


if __name__ == "__main__":
    main(sys.argv[1:])
