"""Commands to a run over its local socket: answers, refusals, and runs that give none."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from testbed.links import commands
from testbed.links.commands import CommandSocket, ask
from testbed.links.errors import LinkError


async def answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    if asked["do"] != "show":
        raise LinkError(f"{asked['do']!r} is unknown")
    return {"links": {}}


def test_a_run_answers_or_says_why_not_and_only_its_user_can_ask(tmp_path: Path) -> None:
    path = tmp_path / "run.sock"

    async def scenario() -> None:
        async with CommandSocket(path, answer):
            assert path.stat().st_mode & 0o777 == 0o600
            assert await ask(path, {"do": "show"}) == {"links": {}}
            with pytest.raises(LinkError, match="'dance' is unknown"):
                await ask(path, {"do": "dance"})
        with pytest.raises(LinkError, match="run takes no commands now"):
            await ask(path, {"do": "show"})

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "run hung up"),
        (b"hello\n", "run does not answer: Expecting value"),
        (None, "run does not answer: nothing"),
    ],
)
def test_a_run_that_gives_no_answer_is_named(
    line: bytes | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.sock"
    monkeypatch.setattr(commands, "ANSWER_S", 5.0 if line is not None else 0.1)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if line is None:
            await reader.read()
        else:
            writer.write(line)
        writer.close()

    async def scenario() -> None:
        async with await asyncio.start_unix_server(serve, path):
            with pytest.raises(LinkError, match=said):
                await ask(path, {"do": "show"})

    asyncio.run(scenario())
