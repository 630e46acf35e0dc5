"""What TCP connections have, as the kernel tells it: for the record of a run, beside what was configured."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

_STATES = ("state", "established")
_OPTIONS = {"ts", "sack", "ecn", "ecnseen", "fastopen"}  # what stands before the name


async def congestion_in_use(prefix: Sequence[str]) -> Counter[str]:
    """How many established connections a place has by congestion control; empty where `ss` cannot be run.

    `prefix` is what has to stand before a command to run it there.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *prefix,
            "ss",
            "-tinH",
            *_STATES,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return Counter()
    out, _ = await process.communicate()
    return parse(out.decode(errors="replace"))


def parse(text: str) -> Counter[str]:
    """The congestion controls in what `ss -ti` prints: in each line that is indented, the first that is no option."""
    found: Counter[str] = Counter()
    for line in text.splitlines():
        words = [word for word in line.split() if word not in _OPTIONS]
        if line[:1].isspace() and words:
            found[words[0]] += 1
    return found
