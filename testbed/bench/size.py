"""`splitcom bench size`: an agent's memory and time per step at the sizes of published models, with random weights."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import GPT2Config

from splitcom.config import Shape
from splitcom.errors import SplitComError
from splitcom.partition import Head, Tail
from splitcom.stream import StreamEncoder
from testbed.bench.size_agent import Row, packet_path
from testbed.bench.sizes import Size

# Shape and sender_memory of the rows of each size.
CASES: tuple[tuple[Shape, str], ...] = (("standard", "sketch"), ("standard", "full"), ("u", "sketch"))


def bench_size(sizes: Mapping[str, Size], samples: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """One row per size and case, each measured in a process of its own; SplitComError if one ends badly."""
    rows = []
    for name, size in sizes.items():
        with tempfile.TemporaryDirectory() as folder:
            say(f"{name}: writing random weights")
            write_base(Path(folder), size)
            for shape, memory in CASES:
                row = Row(
                    base=folder,
                    shape=shape,
                    sender_memory=memory,
                    cut=size.cut,
                    tail=size.tail if shape == "u" else 0,
                    rank=size.rank,
                    vocabulary=size.vocabulary,
                    length=size.length,
                    batch_size=size.batch_size,
                    samples=samples,
                )
                write_packets(row, size.width)
                say(f"{name}: shape {shape}, sender_memory {memory}")
                rows.append({"size": name, "shape": shape, "sender_memory": memory, **_measured(row)})
    return rows


def write_base(directory: Path, size: Size) -> None:
    """A base in Hugging Face layout with the tensors of head and tail alone: the agent reads no others."""
    config = GPT2Config(
        vocab_size=size.vocabulary,
        n_positions=size.positions,
        n_embd=size.width,
        n_layer=size.blocks,
        n_head=size.heads,
        bos_token_id=size.vocabulary - 1,
        eos_token_id=size.vocabulary - 1,
    )
    with torch.device("meta"):
        parts = [Head(config, 0, size.cut), Tail(config, size.blocks - size.tail, size.blocks)]
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for part in parts:
        for name, tensor in part.state_dict().items():
            if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")):
                tensors[name] = torch.ones(tensor.shape)
            elif name != "lm_head.weight":  # tied to the embedding
                tensors[name] = 0.02 * torch.randn(tensor.shape, generator=generator)
    config.save_pretrained(directory)
    save_file(tensors, str(directory / "model.safetensors"))


def write_packets(row: Row, channels: int) -> None:
    """What the server sends for every batch, as random keyframes: its gradients and, in the U-shape, its outputs."""
    settings = row.settings()
    draw = np.random.default_rng(1)
    for name, scale in (("gradient_down", 1e-5), ("activation_down", 1.0)):
        config = settings.streams.of(row.shape).get(name)  # type: ignore[call-overload]
        if config is None:
            continue
        encoder = StreamEncoder(name, config, channels, settings.training.seed)  # type: ignore[arg-type]
        for number, batch in enumerate(row.batches()):
            shapes = [(int(length) - 1, channels) for length in batch.lengths]
            tensors = [np.float32(scale) * draw.standard_normal(shape, np.float32) for shape in shapes]
            packet = encoder.encode(number, batch.sample_ids, tensors)
            packet_path(row.base, name, number).write_bytes(packet.data)


def _measured(row: Row) -> dict[str, Any]:
    path = Path(row.base) / "row.json"
    path.write_text(json.dumps(asdict(row)))
    command = [sys.executable, "-m", "testbed.bench.size_agent", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise SplitComError(f"bench size: the agent's process ended with status {done.returncode}: {last}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def render(rows: list[dict[str, Any]]) -> str:
    """The table in text: memory in MB, seconds of CPU time, the keyframe step's bytes up in MB."""
    lines = [("size", "shape", "memory", "peak", "imports", "weights", "references", "rest", "loading", "s/step", "up")]
    for row in rows:
        held = sum(row["references_bytes"].values())
        rest = row["peak_bytes"] - row["imports_bytes"] - row["weights_bytes"] - held
        memory = (row["peak_bytes"], row["imports_bytes"], row["weights_bytes"], held, rest, row["loading_peak_bytes"])
        peak, imports, weights, references, rest, loading = (f"{size / 1e6:.1f}" for size in memory)
        names = (row["size"], row["shape"], row["sender_memory"])
        speed = (f"{row['step_cpu_s']:.2f}", f"{row['keyframe_step_up_bytes'] / 1e6:.2f}")
        lines.append((*names, peak, imports, weights, references, rest, loading, *speed))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
