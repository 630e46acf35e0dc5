"""What the kernel says of another process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from broker.errors import BrokerError
from testbed.bench.broker_usage import Usage

MB = 1 << 20
GROWN_BYTES = 60 * MB  # of 64: the kernel counts pages processor by processor, and tells the sum a little late
PROGRAM = """
import sys, time
kept = []
for line in sys.stdin:
    word = line.strip()
    if word == "work":
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass
    elif word == "grow":
        kept.append(b"x" * (64 << 20))
    elif word == "shrink":
        kept.clear()
    elif word == "open":
        kept.append(open("/dev/null"))
    print(time.process_time(), flush=True)
"""


class Other:
    """A process that does what it is told."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.usage = Usage(self.process.pid)

    def do(self, word: str) -> float:
        """Its CPU seconds once it has done it, by its own clock."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


@pytest.fixture
def other() -> Iterator[Other]:
    made = Other()
    yield made
    made.process.communicate()


def test_cpu_time_is_the_process_own(other: Other) -> None:
    own = other.do("work")
    assert own >= 0.2
    # What it does between its answer and its next wait is not in its own reading.
    assert own <= other.usage.cpu_s() <= own + 0.05


def test_memory_now_and_at_its_peak(other: Other) -> None:
    other.do("nothing")
    small = other.usage.resident_bytes()
    other.do("grow")
    assert other.usage.resident_bytes() - small >= GROWN_BYTES
    other.do("shrink")
    assert other.usage.resident_bytes() - small < 32 * MB
    assert other.usage.peak_bytes() - small >= GROWN_BYTES


def test_descriptors_are_counted(other: Other) -> None:
    other.do("nothing")
    before = other.usage.descriptors()
    other.do("open")
    other.do("open")
    assert other.usage.descriptors() == before + 2


def test_a_process_that_has_ended_is_named(other: Other) -> None:
    other.process.communicate()
    for figure in (
        other.usage.cpu_s,
        other.usage.resident_bytes,
        other.usage.peak_bytes,
        other.usage.descriptors,
    ):
        with pytest.raises(BrokerError, match=f"process {other.process.pid} has ended"):
            figure()
