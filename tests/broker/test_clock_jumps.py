"""A wall clock that jumps in the middle of transfers."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from itertools import product
from pathlib import Path

import pytest

from broker.packets import V5, Puback, Publish
from broker.properties import Property
from tests.broker.jumping import OFFSETS
from tests.broker.mortal import mortal
from tests.broker.raw import connected, publish
from tests.broker.test_outages import BROKERS, PROTOCOLS

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
NEEDS_FAKETIME = pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed")
DAY = {Property.SESSION_EXPIRY: 86_400}


def faking(offset: Path) -> dict[str, str]:
    """The environment of a process whose wall clock is off by what stands in a file."""
    offset.write_text("+0\n")
    return {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


async def jumping(folder: Path, kind: str, protocol: str) -> None:
    """Broker and clients with a clock that they cannot trust; only the wall clock is to jump, and it has to."""
    offset = folder / f"{kind}-{protocol}"
    command = [sys.executable, "-m", "tests.broker.jumping", str(offset), kind, protocol]
    process = await asyncio.create_subprocess_exec(
        *command, env=os.environ | faking(offset), stdout=asyncio.subprocess.PIPE
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    for (wall, monotonic), before, after in zip(json.loads(output), (0, *OFFSETS), OFFSETS, strict=False):
        assert wall == pytest.approx(after - before, abs=5)
        assert 0 <= monotonic < 5


@pytest.mark.slow
@NEEDS_FAKETIME
def test_a_wall_clock_that_jumps_loses_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(120):
            await asyncio.gather(*(jumping(tmp_path, kind, protocol) for kind, protocol in product(BROKERS, PROTOCOLS)))

    asyncio.run(main())


@NEEDS_FAKETIME
def test_a_store_keeps_what_has_not_expired_through_jumps_and_deaths(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    offset = tmp_path / "offset"
    for key, value in faking(offset).items():
        monkeypatch.setenv(key, value)

    async def main() -> None:
        async with mortal(tmp_path / "store") as broker:
            async with connected(broker.address, "c", V5, DAY, clean_start=False) as first:
                await first.subscribe("t", 1)
            for number, seconds in enumerate((3600, -3600, 7200, 0)):
                async with connected(broker.address, "other") as other:
                    offset.write_text(f"{seconds:+d}\n")
                    await other.send(publish("t", bytes([number]), qos=1, properties={Property.MESSAGE_EXPIRY: 43_200}))
                    await other.expect(Puback)
                await broker.restart()
                async with connected(broker.address, "c", V5, DAY, clean_start=False) as again:
                    assert again.connack.session_present  # type: ignore[attr-defined]
                    message = await again.expect(Publish)
                    assert message.payload == bytes([number])
                    await again.send(Puback(message.packet_id))

    asyncio.run(main())
