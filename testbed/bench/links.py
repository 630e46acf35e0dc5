"""How exact emulated links are: completion times, delays, loss, traces, by back-end. For docs/links.md."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import socket
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from broker.congestion import set_congestion
from broker.errors import SettingsError
from testbed.bench.links_rows import (
    AGGREGATE_MBIT,
    COMPLETION_PERCENT,
    DELAY_MS,
    LOSS_PERCENT,
    RELAY_DELAY_MS,
    TRACE_PERCENT,
    Row,
    promised_mbit,
    row,
)
from testbed.links import registry
from testbed.links.backends import LINKS, LinksOfRun
from testbed.links.base import LinkBackend
from testbed.links.capabilities import capabilities, why_not
from testbed.links.driver import Driver, both_ends
from testbed.links.profile import WAYS, LinkProfile, parse
from testbed.links.rates import PAYLOAD_BYTES, WIRE_PER_PAYLOAD

Say = Callable[[str], None]
# What can be measured, each a method of `Bench`, and what a back-end has to be able to do for it.
NEEDS = {
    "completions": ("rate",),
    "traces": ("varying",),
    "delays": ("delay",),
    "small": ("delay",),
    "losses": ("loss", "delay"),
}
SECONDS = 3.0
RATES_MBIT = (1, 10, 40, 100)
MANY = 10  # clients at once
MIXED_MBIT = ((1, 5), (5, 20), (10, 50), (2, 10))  # up and down
DELAYS_MS = (0, 20, 50, 100)
LOSSES_PERCENT = (0.1, 0.3, 1, 3)
LOSSY_SECONDS = 12.0  # by the formula; losses are few
ROUND_TRIP_MS = 50
MATHIS = 1.22  # sqrt(3/2): Mathis et al., "The macroscopic behavior of the TCP congestion avoidance algorithm", 1997
RENO = "reno"  # which the formula describes
MESSAGES = 40
SMALL_BYTES = 100_000
LIMIT_S = 300.0


def bench_links(
    backends: Sequence[str], congestions: Sequence[str], what: Collection[str], repeats: int, say: Say
) -> dict[str, Any]:
    """All rows that can be measured here, and what could not be with the reason."""
    found = capabilities()
    left_out = {name: why for name in backends if (why := why_not(name, {"rate"}, found))}
    refused = {name: why for name in congestions if (why := _refusal(name))}
    left_out |= refused
    for name, why in left_out.items():
        say(f"{name}: {why}")
    congestions = [name for name in congestions if name not in refused]
    rows: list[Row] = []
    for name in backends:
        if name in left_out:
            continue
        for congestion in congestions:
            rows += asyncio.run(Bench(name, congestion, repeats, say).run(what))
        if congestions and RENO not in congestions:
            rows += asyncio.run(Bench(name, RENO, repeats, say).run({"losses"} & set(what)))
    return {
        "kernel": found["kernel"],
        "repeats": repeats,
        "rows": [each.table() for each in rows],
        "left_out": left_out,
    }


def _refusal(congestion: str) -> str | None:
    """Why a congestion control cannot be had here."""
    with socket.socket() as trial:
        try:
            set_congestion(trial, congestion)
        except SettingsError as error:
            return str(error)
    return None


class Bench:
    """The measurements of one back-end with one congestion control."""

    def __init__(self, backend: str, congestion: str, repeats: int, say: Say) -> None:
        self._backend, self._congestion, self._repeats, self._say = backend, congestion, repeats, say

    async def run(self, what: Collection[str] = tuple(NEEDS)) -> list[Row]:
        """What is asked for of NEEDS, as far as the back-end can do it here."""
        rows: list[Row] = []
        for name, needs in NEEDS.items():
            if name in what and self._able(*needs):
                rows += await getattr(self, name)()
        return rows

    def _able(self, *needs: str) -> bool:
        return why_not(self._backend, needs, capabilities()) is None

    def _row(
        self, what: str, links: dict[str, list[float]], unit: str = "%", bound: float | None = None, note: str = ""
    ) -> Row:
        made = row(self._backend, what, self._congestion, links, unit, bound, note)
        self._say(made.text())
        return made

    @contextlib.asynccontextmanager
    async def _links(self, profiles: Sequence[LinkProfile]) -> AsyncIterator[tuple[LinkBackend, Driver, list[str]]]:
        """Links of these profiles with both ends of the measuring program; their clients' names."""
        named = {f"client{number}": profile for number, profile in enumerate(profiles)}
        name = f"bench{os.getpid()}"
        with tempfile.TemporaryDirectory(prefix="splitcom-bench-") as folder:
            log = Path(folder) / "links.log"
            run = LinksOfRun(name, named, self._congestion, log, lambda *_: None)
            backend = LINKS[self._backend](run)
            with registry.owned(name, self._backend, tuple(getattr(backend, "namespaces", ()))):
                async with backend, both_ends(backend, named, log, self._congestion) as driver:
                    yield backend, driver, list(named)

    async def completions(self) -> list[Row]:
        """Transfers of one client and of ten at once."""
        rows = []
        for clients in (1, MANY):
            for mbit in RATES_MBIT:
                if clients * mbit <= AGGREGATE_MBIT[self._backend]:
                    profiles = [parse(f"up={mbit}mbit down={mbit}mbit")] * clients
                    rows.append(await self._completion(f"completion at {mbit} Mbit/s", profiles))
        mixed = [parse(f"up={up}mbit down={down}mbit") for up, down in MIXED_MBIT * MANY][:MANY]
        return [*rows, await self._completion("completion, 1 to 10 Mbit/s up, 5 to 50 down", mixed)]

    async def _completion(self, what: str, profiles: Sequence[LinkProfile]) -> Row:
        """From when the sender begins to when the receiver has the last byte, against bytes over rate; all at once."""
        links: dict[str, list[float]] = {}
        async with self._links(profiles) as (_, driver, names):
            for _ in range(self._repeats):
                for way in WAYS:
                    rates = {name: profile.rate(way) for name, profile in zip(names, profiles, strict=True)}
                    sizes = {
                        name: int(rate.bytes_between(0, SECONDS) / WIRE_PER_PAYLOAD) for name, rate in rates.items()
                    }
                    answers = await driver.run(way, {name: {"bytes": size} for name, size in sizes.items()}, LIMIT_S)
                    for name, answer in answers.items():
                        ideal_s = rates[name].finish(0.0, answer["bytes"] * WIRE_PER_PAYLOAD)
                        error = 100 * ((answer["last"] - answer["began"]) / ideal_s - 1)
                        links.setdefault(f"{name} {way}", []).append(error)
        mbit = max(sum(profile.rate(way).mean_bps for profile in profiles) for way in WAYS) / 1e6
        promised = mbit <= promised_mbit(self._backend, self._congestion)
        return self._row(what, links, bound=COMPLETION_PERCENT[self._backend] if promised else None)

    async def traces(self) -> list[Row]:
        """Rates that vary, those that the back-end can play."""
        with tempfile.TemporaryDirectory(prefix="splitcom-trace-") as folder:
            return [
                await self._trace(what, profile)
                for profile, what in made_traces(Path(folder))
                if self._able(*profile.needs)
            ]

    async def _trace(self, what: str, profile: LinkProfile) -> Row:
        """The bytes of a transfer against the integral of the trace over the same time."""
        links: dict[str, list[float]] = {}
        async with self._links([profile]) as (backend, driver, (name,)):
            for _ in range(self._repeats):
                for way in WAYS:
                    await backend.set(name, profile)
                    set_s = time.monotonic()
                    size = int(profile.rate(way).bytes_between(0, 4 * SECONDS) / WIRE_PER_PAYLOAD)
                    answer = (await driver.run(way, {name: {"bytes": size}}, LIMIT_S))[name]
                    passed = (size - answer["first_bytes"]) * WIRE_PER_PAYLOAD
                    integral = profile.rate(way).bytes_between(answer["first"] - set_s, answer["last"] - set_s)
                    links.setdefault(f"{name} {way}", []).append(100 * (passed / integral - 1))
        return self._row(what, links, bound=TRACE_PERCENT[self._backend])

    async def delays(self) -> list[Row]:
        """Small messages one way; what they take without a delay is the programs' own, and taken off."""
        rows = []
        own_ms = 0.0
        for delay_ms in DELAYS_MS:
            links: dict[str, list[float]] = {}
            # A link of no limits is not emulated at all, so the one without a delay has a rate that takes no time.
            profile = parse(f"up=1gbit down=1gbit delay={delay_ms}ms")
            async with self._links([profile]) as (backend, driver, (name,)):
                priority = (await backend.facts()).get("emulator_priority", "none")
                for _ in range(self._repeats):
                    answer = (await driver.run("delay", {name: {"count": MESSAGES}}, LIMIT_S))[name]
                    for way in WAYS:
                        taken_ms = 1000 * statistics.median(answer[way])
                        links.setdefault(f"{name} {way}", []).append(taken_ms - delay_ms - own_ms)
            if delay_ms:
                note = f"{own_ms:.2f} ms of the programs' own taken off; priority {priority}"
                bound = RELAY_DELAY_MS if self._backend == "proxy" else DELAY_MS[priority]
                rows.append(self._row(f"delay of {delay_ms} ms one way", links, "ms", bound, note))
            else:
                own_ms = statistics.median(error for errors in links.values() for error in errors)
        return rows

    async def small(self) -> list[Row]:
        """An upload of 100 kB over a long round trip, against serialisation and delay: what slow start makes of it."""
        profile = parse("up=50mbit down=50mbit delay=50ms")
        ideal_s = profile.up.delay_s + profile.rate("up").finish(0.0, SMALL_BYTES * WIRE_PER_PAYLOAD)
        taken: list[float] = []
        async with self._links([profile]) as (_, driver, (name,)):
            for _ in range(self._repeats):
                answer = (await driver.run("up", {name: {"bytes": SMALL_BYTES}}, LIMIT_S))[name]
                taken.append(answer["last"] - answer["began"])
                await asyncio.sleep(1.0)  # after which TCP begins slowly again
        note = f"{1000 * statistics.median(taken):.0f} ms, {1000 * ideal_s:.0f} without slow start"
        errors = [100 * (seconds / ideal_s - 1) for seconds in taken]
        return [self._row("upload of 100 kB at 50 Mbit/s, round trip 100 ms", {f"{name} up": errors}, note=note)]

    async def losses(self) -> list[Row]:
        """Goodput under loss against Mathis' formula, which holds for Reno only: told for the others as it is."""
        return [await self._loss(percent) for percent in LOSSES_PERCENT]

    async def _loss(self, percent: float) -> Row:
        """Ten clients at once, for losses are few; the mean over all that they passed in the time it took them."""
        profile = parse(f"up=100mbit down=100mbit queue=200ms delay={ROUND_TRIP_MS / 2}ms loss={percent}%")
        formula_bps = MATHIS * PAYLOAD_BYTES * 8 / (ROUND_TRIP_MS / 1000) / math.sqrt(percent / 100)
        size = int(formula_bps / 8 * LOSSY_SECONDS)
        rates: list[float] = []
        async with self._links([profile] * MANY) as (_, driver, names):
            for _ in range(self._repeats):
                answers = await driver.run("up", {name: {"bytes": size} for name in names}, LIMIT_S)
                taken_s = statistics.mean(answer["last"] - answer["first"] for answer in answers.values())
                rates.append(8 * size / taken_s)
        note = f"{statistics.median(rates) / 1e6:.2f} Mbit/s, by the formula {formula_bps / 1e6:.2f}"
        errors = [100 * (rate / formula_bps - 1) for rate in rates]
        links = {f"{name} up": errors for name in names}
        bound = LOSS_PERCENT if self._congestion == RENO else None
        return self._row(f"goodput at {percent:g} % loss", links, bound=bound, note=note)


def made_traces(folder: Path) -> list[tuple[LinkProfile, str]]:
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
