"""`splitcom bench memory`: an agent's peak memory above a process that only holds the head and has run one step."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from testbed.progress import Progress
from testbed.runner import prepare, run_processes
from testbed.scenario import read

FLOOR = """
import sys
import torch, transformers, peft
from broker.program import peak_bytes
from splitcom.adapters import add_adapter
from splitcom.config import LoraSettings, ModelConfig, TrainingConfig
from splitcom.partition import load_head
from splitcom.weights import Weights
from edge_agent.trainer import HeadTrainer
from splitcom.data.batches import Batch
import numpy as np
torch.set_num_threads(1)
base, cut, batch, length = sys.argv[1], *map(int, sys.argv[2:5])
head = load_head(Weights(base), ModelConfig(base=base, cut=cut))
add_adapter(head, LoraSettings(), 0)
trainer = HeadTrainer(head, TrainingConfig(), 1, True)
tokens = np.ones((batch, length), np.int64)
made = Batch(tuple(range(batch)), tokens, np.full(batch, length), tokens)
samples = trainer.forward(0, made)
trainer.backward(0, samples)
print(peak_bytes())
"""


def bench_memory(layers: dict[str, Any], length: int) -> dict[str, Any]:
    """Peak resident bytes of every agent of a run, of the floor, and the worst difference."""
    scenario = read(["e2e", "splitcom"], {"training": {"epochs": 2}, "evaluation": {"bleu": 0}}, layers)
    with tempfile.TemporaryDirectory() as folder:
        directory, quiet = Path(folder) / "run", Progress("bench")
        summary = asyncio.run(run_processes(prepare(scenario, directory, quiet), directory, quiet))
        peaks = dict(summary["agent_peak_bytes"])
    command = [sys.executable, "-c", FLOOR, scenario.model.base, str(scenario.model.cut)]
    command += [str(scenario.training.batch_size), str(length)]
    floor = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {"floor_bytes": floor, "agent_peak_bytes": peaks, "above_floor_bytes": max(peaks.values()) - floor}


def render(result: dict[str, Any]) -> str:
    """The result in one line."""
    return json.dumps({k: v for k, v in result.items() if k != "agent_peak_bytes"})
