"""One row of `splitcom bench size`: an agent's computing alone in this process, with the server's packets from files.

Run as `python -m testbed.bench.size_agent ROW.json`; prints the measures as JSON. The server's half would add its own
memory to the figures, so its packets are made beforehand, and no server checks what goes up.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from broker.messages import ActivationDown, GradientDown
from broker.program import peak_bytes
from edge_agent.client import SplitClient
from splitcom.config import (
    LoraSettings,
    ModelConfig,
    Shape,
    SharedSettings,
    StreamConfig,
    StreamsConfig,
    TrainingConfig,
)
from splitcom.data.batches import Batch, collate
from splitcom.data.sample import Example
from splitcom.ledger import Ledger
from splitcom.weights import Weights

EPOCHS = 2


@dataclass(frozen=True)
class Row:
    """What one agent runs: a base directory, its parts, its streams and its samples."""

    base: str
    shape: Shape
    sender_memory: str
    cut: int
    tail: int
    rank: int
    vocabulary: int
    length: int
    batch_size: int
    samples: int

    def settings(self) -> SharedSettings:
        """As the server would send them: the default streams, but for the sender's memory."""
        gated = StreamConfig(gate="cosine", codec="int8", lossless="lz4", sender_memory=self.sender_memory)  # type: ignore[arg-type]
        return SharedSettings(
            self.shape,
            self.cut,
            self.tail,
            LoraSettings(self.rank),
            StreamsConfig(activation_up=gated),
            training=TrainingConfig(epochs=EPOCHS, batch_size=self.batch_size),
        )

    def batches(self) -> list[Batch]:
        """Random tokens, all samples of one length, the second half of each as targets; the same in every epoch."""
        draw = np.random.default_rng(0)
        tokens = draw.integers(0, self.vocabulary, (self.samples, self.length), dtype=np.int32)
        examples = [Example(number, row, self.length // 2) for number, row in enumerate(tokens)]
        lows = range(0, self.samples, self.batch_size)
        return [collate(examples[low : low + self.batch_size]) for low in lows]


def packet_path(base: str | Path, stream: str, number: int) -> Path:
    """Where the server's packet for a batch lies."""
    return Path(base) / f"{stream}.{number}"


def measure(row: Row) -> dict[str, Any]:
    """Peak memory and what it is made of, seconds per step and bytes up of the first (keyframe) step."""
    torch.set_num_threads(1)
    imports = peak_bytes()
    client = SplitClient(
        "agent0",
        Weights(row.base),
        ModelConfig(row.base, device="cpu", shape=row.shape, cut=row.cut, tail=row.tail),
        row.settings(),
        (),
        Ledger("agent0"),
    )
    loaded = peak_bytes()
    steps = train(client, row)
    parts = [client.head.head, *([client.tail.tail] if client.tail else [])]
    return {
        "peak_bytes": peak_bytes(),
        "imports_bytes": imports,
        "loading_peak_bytes": loaded,
        "weights_bytes": sum({t.data_ptr(): t.nbytes for part in parts for t in part.parameters()}.values()),
        "references_bytes": client.ends.memory(),
        "step_cpu_s": float(np.median([seconds for seconds, _ in steps])),
        "activity_cpu_s": {name: total / len(steps) for name, total in sorted(client.seconds.items())},
        "keyframe_step_up_bytes": steps[0][1],
        "skipped": client.skipped,
    }


def train(client: SplitClient, row: Row) -> list[tuple[float, int]]:
    """(CPU seconds, bytes up) of every step, epoch after epoch, as the agent would take it."""
    steps = []
    for epoch in range(EPOCHS):
        client.begin({}, b"")
        for number, batch in enumerate(row.batches()):
            clock = time.process_time()
            message = client.attempt(epoch, batch)
            up = len(message.packet) + len(message.labels)
            if row.shape == "u":
                output = packet_path(row.base, "activation_down", number).read_bytes()
                answer = client.turn(epoch, batch, ActivationDown(message.step, output))
                up += len(answer.packet) if answer else 0
            gradient = packet_path(row.base, "gradient_down", number).read_bytes()
            client.finish(batch, GradientDown(message.step, gradient, 0.0))
            steps.append((time.process_time() - clock, up))
        client.adapter(epoch)
    return steps


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    print(json.dumps(measure(Row(**json.loads(Path(sys.argv[1]).read_text())))))
