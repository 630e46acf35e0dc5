"""A broker's program in a child process."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from broker import child


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "END_S", 0.2)
    script = (
        "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    )

    async def scenario() -> None:
        command = [sys.executable, "-c", script, "--events"]
        async with child.started(command, tmp_path / "log") as process:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"up\n"
        assert process.returncode == -9

    asyncio.run(scenario())


def test_settings_of_a_broker_that_the_user_starts_do_not_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLITCOM_BROKER_PORT", "1")
    monkeypatch.setenv("KEPT", "2")
    script = "import os; print([name for name in ('SPLITCOM_BROKER_PORT', 'KEPT') if name in os.environ])"

    async def scenario() -> None:
        async with child.started([sys.executable, "-c", script], tmp_path / "log") as process:
            await process.wait()

    asyncio.run(scenario())
    assert child.tail(tmp_path / "log") == "['KEPT']"
