"""Messages of up to a gibibyte between processes, and the memory that they take."""

from __future__ import annotations

import pytest

from tests.broker.pairs import crossed, over

GIBIBYTE = 1 << 30


@pytest.mark.slow
@pytest.mark.parametrize("size", [GIBIBYTE // 16, pytest.param(GIBIBYTE - 4096, marks=pytest.mark.timeout(600))])
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_large_message_takes_little_more_memory_than_itself(size: int, way: str) -> None:
    up, down = (size, 0) if way == "up" else (0, size)
    reports = over("", up, down, f"max_message_bytes={GIBIBYTE}")
    assert crossed(reports)
    sender, receiver = ("agent", "server") if way == "up" else ("server", "agent")
    spare = 128 << 20  # the programs themselves
    assert size < reports[receiver]["peak_bytes"] < 2.1 * size + spare  # the body, and the message that it becomes
    assert size < reports[sender]["peak_bytes"] < 3.1 * size + spare  # the message, and what encodes it
    assert reports["broker_peak_bytes"] < spare
