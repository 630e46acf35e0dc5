"""Which branches of the decoders inputs reach, measured with coverage.py."""

from __future__ import annotations

import itertools
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import coverage

from tests.fuzz.targets import target

ROOT = Path(__file__).resolve().parents[2]

MEASURED = {
    "packet": ["broker/framer.py", "broker/packet_decoder.py", "broker/fields.py", "broker/properties.py"],
    "wire": [
        "broker/wire.py",
        "broker/reassembler.py",
        "broker/room.py",
        "broker/arrivals.py",
        "broker/messages.py",
        "broker/body.py",
        "broker/checks.py",
    ],
    "frame": [
        "splitcom/frame.py",
        "splitcom/checksum.py",
        "splitcom/codec/base.py",
        "splitcom/codec/fp16.py",
        "splitcom/codec/fp32.py",
        "splitcom/codec/int8.py",
        "splitcom/codec/lossless.py",
        "splitcom/labels.py",
        "splitcom/adapter_stream.py",
    ],
}
"""Per target the modules that read what comes from outside."""

NOT_COUNTED = {
    "broker/fields.py": ["u16", "u32", "varint", "binary", "text"],
    "broker/properties.py": ["write_properties", "encode_properties", "_pair"],
    "broker/messages.py": ["Message.__init_subclass__"],
    "broker/wire.py": ["split", "cut", "chunk_count"],
    "splitcom/frame.py": ["pack", "PacketStats.stages"],
    "splitcom/codec/fp16.py": ["Fp16.encode"],
    "splitcom/labels.py": ["LabelSender.", "LabelReceiver.get", "_checked"],
    "splitcom/adapter_stream.py": ["AdapterStream.encode_", "AdapterStream._encode", "AdapterStream._matrices"],
}
"""Functions (or what their names begin with) that never see such bytes: they write."""


@dataclass(frozen=True)
class Reach:
    """Branches of the measured functions: how many there are, and where those lie that were not taken."""

    branches: int
    missed: list[str]

    @property
    def share(self) -> float:
        """Taken branches of all, 0 to 1."""
        return 1 - len(self.missed) / self.branches


def reach(name: str, inputs: Iterable[bytes]) -> Reach:
    """Run the inputs through a target and look which branches of its modules they took."""
    run = target(name)
    files = [str(ROOT / module) for module in MEASURED[name]]
    measurement = coverage.Coverage(data_file=None, config_file=False, branch=True, include=files)
    with measurement.collect():
        for data in inputs:
            run(data)
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        measurement.json_report(outfile=report.name)
        found = json.loads(Path(report.name).read_text())["files"]
    branches, missed = 0, []
    for path, file in found.items():
        module = str((Path.cwd() / path).resolve().relative_to(ROOT))
        for function, region in file["functions"].items():
            if function and not function.startswith(tuple(NOT_COUNTED.get(module, ()))):
                branches += region["summary"]["num_branches"]
                missed += [f"{module}: {function}: {start} to {stop}" for start, stop in region["missing_branches"]]
    return Reach(branches, missed)


def features(run: Callable[[bytes], set[str]], data: bytes) -> set[str]:
    """What an input reaches: every step from line to line in our packages, and what came of it, numbers aside."""
    steps: set[str] = set()

    def enter(frame: FrameType, event: str, _: object) -> Callable[[FrameType, str, object], Any] | None:
        path = frame.f_code.co_filename
        if not any(path.endswith(module) for module in modules):
            return None
        last = 0

        def cross(frame: FrameType, event: str, _: object) -> Any:
            nonlocal last
            if event in ("line", "return"):
                line = frame.f_lineno if event == "line" else -1
                steps.add(f"{path}: {last} to {line}")
                last = line
            return cross

        return cross

    modules = tuple(itertools.chain.from_iterable(MEASURED.values()))
    before = sys.gettrace()
    sys.settrace(enter)
    try:
        outcomes = run(data)
    finally:
        sys.settrace(before)
    return steps | {re.sub(r"\d+|'.*'|b\".*\"", "0", outcome) for outcome in outcomes}
