"""What one process sent, by kind: rows on its local disk, never on the measured link, and their totals.

Kinds: `keyframe`, `residual` and `skip` frames of activations, `gradient` frames, `label`, `adapter`, `framing` (what
wraps these: packet headers, checksums, message fields) and `control` (all other messages). Their sum is the body
bytes of the messages sent, which the message plane counts on its own.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from splitcom.config import GRADIENTS

if TYPE_CHECKING:
    from splitcom.frame import PacketStats

CUT_LAYER_KINDS = ("keyframe", "residual", "skip", "gradient", "label", "framing")
KINDS = (*CUT_LAYER_KINDS, "adapter", "control")
FLOAT_BYTES = 4


class Ledger:
    """Totals per kind and stage in memory; a row per packet in a JSON-lines file when `path` is given.

    Every row is written at once, so that a process that is killed leaves whole rows behind.
    """

    def __init__(self, owner: str, path: Path | None = None) -> None:
        self.owner = owner
        self.kinds: Counter[str] = Counter()
        self.frames: Counter[str] = Counter()
        self.stages: Counter[str] = Counter()
        self.events: Counter[str] = Counter()
        self.rates: dict[str, dict[int, list[int]]] = {}
        self.memory: dict[str, int] = {}
        self._file: TextIO | None = path.open("a", buffering=1, encoding="utf-8") if path else None

    def packet(self, stream: str, client: str, epoch: int, step: int, stats: PacketStats) -> None:
        """Book a packet: its frames, its stages, and the row that tells them."""
        gradient = stream in GRADIENTS
        for kind, count in stats.kinds.items():
            self.kinds["gradient" if gradient else kind] += count.bytes
            self.frames[f"{stream}.{kind}"] += count.frames
        self.kinds["framing"] += stats.framing_bytes
        stages = stats.stages()
        for stage, size in stages.items():
            self.stages[f"{stream}.{stage}"] += size
        rate = self.rates.setdefault(stream, {}).setdefault(epoch, [0, 0])
        rate[0] += stats.total_bytes
        rate[1] += stats.raw_bytes // FLOAT_BYTES
        self.event("forced_keyframe", stats.forced)
        similar = stats.similarities
        self.row(
            "packet",
            stream=stream,
            client=client,
            epoch=epoch,
            step=step,
            kinds={kind: [count.frames, count.bytes] for kind, count in stats.kinds.items() if count.frames},
            framing=stats.framing_bytes,
            stages=stages,
            similarity=round(sum(similar) / len(similar), 6) if similar else None,
        )

    def remember(self, epoch: int, memory: dict[str, int]) -> None:
        """Book the bytes that this end's references take, per stream; the totals keep the largest."""
        self.row("memory", epoch=epoch, bytes=memory)
        for stream, size in memory.items():
            self.memory[stream] = max(size, self.memory.get(stream, 0))

    def message(self, body_bytes: int, parts: dict[str, int], rest: str) -> None:
        """Book a message of `body_bytes`: `parts` by kind, packets (booked by `packet`) as the part `packet`, and
        what is left over under `rest` (framing or control)."""
        for kind, size in parts.items():
            if kind != "packet":
                self.kinds[kind] += size
        self.kinds[rest] += body_bytes - sum(parts.values())

    def event(self, name: str, count: int = 1) -> None:
        """Count something that happened, such as a refused step."""
        if count:
            self.events[name] += count

    def row(self, row: str, **values: Any) -> None:
        """Append one row of the named type."""
        if self._file is not None:
            self._file.write(json.dumps({"row": row, "owner": self.owner, **values}, separators=(",", ":")) + "\n")

    def totals(self) -> dict[str, dict[str, Any]]:
        """Everything booked so far, in a form that JSON holds; `rates` are [packet bytes, values] by stream and epoch,
        `memory` the bytes of references by stream."""
        return {
            "kinds": {kind: self.kinds[kind] for kind in KINDS},
            "frames": dict(sorted(self.frames.items())),
            "stages": dict(sorted(self.stages.items())),
            "events": dict(sorted(self.events.items())),
            "rates": {s: {str(e): rate for e, rate in sorted(r.items())} for s, r in sorted(self.rates.items())},
            "memory": dict(sorted(self.memory.items())),
        }

    def close(self) -> None:
        """Write the totals as the last row and close the file; harmless when called again."""
        if self._file is not None:
            self.row("totals", **self.totals())
            self._file.close()
            self._file = None
