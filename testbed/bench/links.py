"""How exact emulated links are: completion times, delays, loss, traces, by back-end. For docs/links.md."""

from __future__ import annotations

import math
import os
import random
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.links.backends import LINKS, LinksOfRun
from testbed.links.base import LinkBackend
from testbed.links.calibration import Driver, both_ends
from testbed.links.capabilities import capabilities, why_not
from testbed.links.profile import LinkProfile, parse
from testbed.links.rates import PAYLOAD_BYTES, WIRE_PER_PAYLOAD
from testbed.links.traces import Way

Say = Callable[[str], None]
SECONDS = 3.0
RATES_MBIT = (1, 10, 50, 100)
DELAYS_MS = (20, 50, 100)
LOSSES_PERCENT = (0.1, 0.3, 1, 3)
ROUND_TRIP_MS = 50
MATHIS = 1.22  # sqrt(3/2): Mathis et al., "The macroscopic behavior of the TCP congestion avoidance algorithm", 1997
MESSAGES = 40
SMALL_BYTES = 100_000
LIMIT_S = 300.0


@dataclass(frozen=True)
class Row:
    """One line of the table: medians over repeats; errors in percent, `worst` the largest in size of all."""

    backend: str
    what: str
    congestion: str
    clients: int
    error_percent: float
    worst_percent: float
    note: str = ""


def bench_links(backends: Sequence[str], congestions: Sequence[str], repeats: int, say: Say) -> dict[str, Any]:
    """All rows that can be measured here, and what could not be with the reason."""
    import asyncio

    found = capabilities()
    left_out = {name: why for name in backends if (why := why_not(name, {"rate"}, found))}
    rows: list[Row] = []
    for name in backends:
        if name in left_out:
            say(f"{name}: {left_out[name]}")
            continue
        for congestion in congestions:
            rows += asyncio.run(_backend(name, congestion, repeats, say))
    return {
        "kernel": found["kernel"],
        "repeats": repeats,
        "rows": [row.__dict__ for row in rows],
        "left_out": left_out,
    }


async def _backend(name: str, congestion: str, repeats: int, say: Say) -> list[Row]:
    rows: list[Row] = []
    able = capabilities()
    for clients in (1, 10):
        for mbit in RATES_MBIT:
            if clients * mbit > 500:
                continue
            profile = parse(f"up={mbit}mbit down={mbit}mbit")
            what = f"completion at {mbit} Mbit/s"
            rows.append(await _completion(name, congestion, repeats, what, [profile] * clients))
            say(_text(rows[-1]))
    mixed = [parse(f"up={up}mbit down={down}mbit") for up, down in ((1, 5), (5, 20), (10, 50), (2, 10)) * 3][:10]
    rows.append(await _completion(name, congestion, repeats, "completion, 1 to 10 up, 5 to 50 down", mixed))
    say(_text(rows[-1]))
    with tempfile.TemporaryDirectory(prefix="splitcom-trace-") as folder:
        for profile, what in _traces(Path(folder)):
            if why_not(name, profile.needs, able) is None:
                rows.append(await _trace(name, congestion, repeats, what, profile))
                say(_text(rows[-1]))
    if why_not(name, {"delay"}, able) is None:
        for delay in DELAYS_MS:
            rows.append(await _delay(name, congestion, repeats, delay))
            say(_text(rows[-1]))
        rows.append(await _small(name, congestion, repeats))
        say(_text(rows[-1]))
    if why_not(name, {"loss", "delay"}, able) is None:
        for percent in LOSSES_PERCENT:
            rows.append(await _loss(name, congestion, repeats, percent))
            say(_text(rows[-1]))
    return rows


def _text(row: Row) -> str:
    errors = f"{row.error_percent:+.2f} %, worst {row.worst_percent:+.2f} %"
    return f"{row.backend} {row.congestion} {row.clients} x {row.what}: {errors} {row.note}"


class _Links:
    """The links of one measurement with both ends of the measuring program."""

    def __init__(self, name: str, congestion: str, profiles: Sequence[LinkProfile]) -> None:
        self.profiles = {f"client{number}": profile for number, profile in enumerate(profiles)}
        self._folder = tempfile.TemporaryDirectory(prefix="splitcom-bench-")
        self._congestion = congestion
        self._log = Path(self._folder.name) / "links.log"
        run = LinksOfRun(f"bench{os.getpid()}", self.profiles, congestion, self._log, lambda *_: None)
        self.backend: LinkBackend = LINKS[name](run)

    async def __aenter__(self) -> tuple[LinkBackend, Driver]:
        await self.backend.__aenter__()
        try:
            self._ends = both_ends(self.backend, self.profiles, self._log, self._congestion)
            return self.backend, await self._ends.__aenter__()
        except BaseException:
            await self.backend.__aexit__(None, None, None)
            raise

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._ends.__aexit__(None, None, None)
        finally:
            await self.backend.__aexit__(None, None, None)
            self._folder.cleanup()


def _row(name: str, what: str, congestion: str, clients: int, errors: Iterable[float], note: str = "") -> Row:
    errors = list(errors)
    worst = max(errors, key=abs)
    return Row(name, what, congestion, clients, round(statistics.median(errors), 3), round(worst, 3), note)


async def _completion(name: str, congestion: str, repeats: int, what: str, profiles: Sequence[LinkProfile]) -> Row:
    """From when the sender begins to when the receiver has the last byte, against bytes over rate; all at once."""
    links = _Links(name, congestion, profiles)
    errors: list[float] = []
    async with links as (_, driver):
        for _ in range(repeats):
            for way in ("up", "down"):
                errors += await _transfer(driver, way, links.profiles)
    return _row(name, what, congestion, len(profiles), errors)


async def _transfer(driver: Driver, way: Way, profiles: dict[str, LinkProfile]) -> list[float]:
    jobs = {
        client: {"bytes": int(profile.rate(way).bytes_between(0, SECONDS) / WIRE_PER_PAYLOAD)}
        for client, profile in profiles.items()
    }
    answers = await driver.run(way, jobs, LIMIT_S)
    errors = []
    for client, answer in answers.items():
        ideal_s = profiles[client].rate(way).finish(0.0, answer["bytes"] * WIRE_PER_PAYLOAD)
        errors.append(100 * ((answer["last"] - answer["began"]) / ideal_s - 1))
    return errors


def _traces(folder: Path) -> list[tuple[LinkProfile, str]]:
    """Traces made here: steps of a second between 1 and 20 Mbit/s, and a Mahimahi trace of 8 Mbit/s on average."""
    draw = random.Random(0)
    steps = "+".join(
        [f"{draw.randint(1, 20)}mbit", *(f"{draw.randint(1, 20)}mbit@{second}s" for second in range(1, 60))]
    )
    times, now = [], 0.0
    while now < 10_000:
        now += draw.expovariate(1 / 1.5)
        times.append(round(now))
    trace = folder / "trace"
    trace.write_text("\n".join(map(str, times)) + "\n")
    return [
        (parse(f"up={steps} down={steps}"), "steps each second, 1 to 20 Mbit/s"),
        (parse(f"up=mahimahi:{trace} down=mahimahi:{trace}"), "Mahimahi, 8 Mbit/s on average"),
    ]


async def _trace(name: str, congestion: str, repeats: int, what: str, profile: LinkProfile) -> Row:
    """The bytes of a transfer against the integral of the trace over the same time."""
    import time

    links = _Links(name, congestion, [profile])
    errors = []
    async with links as (backend, driver):
        for _ in range(repeats):
            for way in ("up", "down"):
                await backend.set("client0", profile)
                set_s = time.monotonic()
                size = int(profile.rate(way).bytes_between(0, 4 * SECONDS) / WIRE_PER_PAYLOAD)
                answer = (await driver.run(way, {"client0": {"bytes": size}}, LIMIT_S))["client0"]
                passed = (size - answer["first_bytes"]) * WIRE_PER_PAYLOAD
                integral = profile.rate(way).bytes_between(answer["first"] - set_s, answer["last"] - set_s)
                errors.append(100 * (passed / integral - 1))
    return _row(name, what, congestion, 1, errors)


async def _delay(name: str, congestion: str, repeats: int, delay_ms: int) -> Row:
    profile = parse(f"delay={delay_ms}ms")
    errors, added_ms = [], []
    async with _Links(name, congestion, [profile]) as (_, driver):
        for _ in range(repeats):
            answer = (await driver.run("delay", {"client0": {"count": MESSAGES}}, LIMIT_S))["client0"]
            for way in ("up", "down"):
                measured_ms = 1000 * statistics.median(answer[way])
                errors.append(100 * (measured_ms / delay_ms - 1))
                added_ms.append(measured_ms - delay_ms)
    return _row(name, f"delay of {delay_ms} ms one way", congestion, 1, errors, f"{max(added_ms):+.2f} ms at most")


async def _small(name: str, congestion: str, repeats: int) -> Row:
    """An upload of 100 kB over a long round trip, against serialisation and delay: what slow start makes of it."""
    import asyncio

    profile = parse("up=50mbit down=50mbit delay=50ms")
    ideal_s = profile.up.delay_s + profile.rate("up").finish(0.0, SMALL_BYTES * WIRE_PER_PAYLOAD)
    taken: list[float] = []
    async with _Links(name, congestion, [profile]) as (_, driver):
        for _ in range(repeats):
            answer = (await driver.run("up", {"client0": {"bytes": SMALL_BYTES}}, LIMIT_S))["client0"]
            taken.append(answer["last"] - answer["began"])
            await asyncio.sleep(1.0)  # after which TCP begins slowly again
    note = f"{1000 * statistics.median(taken):.0f} ms, {1000 * ideal_s:.0f} without slow start"
    what = "upload of 100 kB at 50 Mbit/s, round trip 100 ms"
    return _row(name, what, congestion, 1, (100 * (seconds / ideal_s - 1) for seconds in taken), note)


async def _loss(name: str, congestion: str, repeats: int, percent: float) -> Row:
    """Goodput under loss against Mathis' formula, which holds for Reno only: told for the others as it is."""
    profile = parse(f"up=100mbit down=100mbit queue=200ms delay={ROUND_TRIP_MS / 2}ms loss={percent}%")
    formula_bps = MATHIS * PAYLOAD_BYTES * 8 / (ROUND_TRIP_MS / 1000) / math.sqrt(percent / 100)
    rates = []
    async with _Links(name, congestion, [profile]) as (_, driver):
        for _ in range(repeats):
            size = int(formula_bps / 8 * 4 * SECONDS)
            answer = (await driver.run("up", {"client0": {"bytes": size}}, LIMIT_S))["client0"]
            rates.append(8 * (size - answer["first_bytes"]) / (answer["last"] - answer["first"]))
    note = f"{statistics.median(rates) / 1e6:.2f} Mbit/s, by the formula {formula_bps / 1e6:.2f}"
    return _row(
        name, f"goodput at {percent:g} % loss", congestion, 1, (100 * (rate / formula_bps - 1) for rate in rates), note
    )


def render(result: dict[str, Any]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| back-end | congestion control | clients | what | error, median | worst | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        lines.append(
            f"| `{row['backend']}` | {row['congestion']} | {row['clients']} | {row['what']} | "
            f"{row['error_percent']:+.2f} % | {row['worst_percent']:+.2f} % | {row['note']} |"
        )
    return "\n".join(lines)
