"""One scenario carried out: a run directory, every process of it, and the summary."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import tomli_w

from broker.engines import Address, engine, is_secure
from broker.errors import BrokerError, SettingsError
from broker.settings import as_table
from splitcom.base import check_base
from splitcom.control import check_control
from splitcom.data.corpus import load
from splitcom.data.shards import shard
from testbed import micro
from testbed.links.lab import Lab
from testbed.processes import Child, OnEvent, ProcessError
from testbed.progress import Progress
from testbed.scenario import Scenario
from testbed.summary import summarize
from testbed.versions import versions
from training_server.__main__ import check_scorer

PATIENCE_S = 4.0  # the server takes up to 3 s to tell agents of the end


def new_directory(root: Path, name: str) -> Path:
    """A run directory that does not exist yet: the time and the scenario's name, numbered if need be."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    directory, number = root / stem, 1
    while directory.exists():
        directory, number = root / f"{stem}-{number}", number + 1
    return directory


def prepare(scenario: Scenario, directory: Path, progress: Progress) -> Scenario:
    """Build the micro base if the scenario needs it; write what the run is about into its directory.

    Raises SettingsError, ConfigError or DataError for a directory, base or data that cannot be used, before anything
    is written.
    """
    check_directory(directory)
    check_scorer(scenario.evaluation)
    check_control(scenario.control)
    check_cuts(scenario)
    if scenario.model.base != micro.NAME:
        check_base(scenario.model)
    check_data(scenario, progress)
    if scenario.model.base == micro.NAME:
        scenario = scenario.with_base(str(build_micro(progress)))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.toml").write_text(tomli_w.dumps(as_table(scenario)))
    (directory / "versions.json").write_text(json.dumps(versions(), indent=1) + "\n")
    return scenario


def check_directory(directory: Path) -> None:
    """Raise SettingsError unless the directory is empty, or can be made."""
    if directory.is_dir():
        if any(directory.iterdir()):
            raise SettingsError(f"--out: {directory} is not empty; valid: a new or an empty directory")
        return
    above = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not above.is_dir():
        raise SettingsError(f"--out: {above} is no directory; valid: a new or an empty directory")
    if not os.access(above, os.W_OK | os.X_OK):
        raise SettingsError(f"--out: {above} cannot be written; valid: a new or an empty directory")


def check_cuts(scenario: Scenario) -> None:
    """Raise SettingsError for a cut of an agent that the run will not have."""
    names = scenario.agents()
    for name in scenario.model.unequal():
        if name not in names:
            raise SettingsError(f"model.cuts: {name!r} is no agent of the run; valid: {names[0]} to {names[-1]}")


def check_data(scenario: Scenario, progress: Progress) -> None:
    """Read the texts as every process will, and say what is special about them."""
    corpus = load(scenario.data)
    shard(corpus.train, scenario.clients, scenario.data)
    for note in corpus.notes:
        progress.say(note)
    for reason, count in corpus.skipped.items():
        progress.say(f"skipped {count}: {reason}")


def build_micro(progress: Progress) -> Path:
    """The micro base, built on first use with its progress shown."""
    if micro.built():
        return micro.path()
    progress.say(f"building the micro base in {micro.path()} (once, about a minute)")

    def show(step: int, steps: int, loss: float) -> None:
        text = f"pre-training step {step}/{steps}, loss {loss:.2f}"
        if not progress.live and (step == 1 or step % max(1, steps // 5) == 0):
            progress.say(text)
        progress.pulse(text)

    return micro.build(show)


async def run_processes(scenario: Scenario, directory: Path, progress: Progress) -> dict[str, Any]:
    """Start broker, server and agents as processes, wait for the end of the run; returns the summary.

    Whatever happens, every process has ended when this returns, and the directory holds what there is to read.
    """
    began = time.monotonic()
    children: list[Child] = []
    links: dict[str, Any] = {}
    failure: BaseException | None = None
    lab = Lab(scenario.name, scenario.links, scenario.agents(), directory)
    try:
        async with (
            lab,
            engine(scenario.broker, directory, lab.server) as address,
            _stopped(children),
        ):
            await _measured(lab, progress)
            progress.say(f"starting a server and {scenario.clients} agents, broker: {scenario.broker}")
            async with asyncio.TaskGroup() as group:

                def on_event(name: str, event: dict[str, Any]) -> None:
                    if name == "server" and event["event"] == "begin":
                        group.create_task(lab.begin(), name="links begin")
                    progress(name, event)

                await _start(scenario, directory, lab, address, on_event, children)
                duties = [group.create_task(duty, name="links") for duty in (lab.watch(), lab.follow_timeline())]
                await asyncio.wait([group.create_task(child.watch(), name=child.name) for child in children])
                for duty in duties:
                    duty.cancel()
            links = await lab.records()
    except* ProcessError as group_error:
        failure = group_error.exceptions[0]
    except* asyncio.CancelledError as group_error:
        failure = group_error.exceptions[0]
    except* BrokerError as group_error:
        if not (lab.checks or any("begin" in child.last for child in children)):
            shutil.rmtree(directory)
            raise
        failure = group_error.exceptions[0]
        if children:
            failure = ProcessError(str(failure), 1)  # not of what was asked for: of what went on
    if isinstance(failure, ProcessError):
        failure.status = 2 if failure.status == 2 and not any("begin" in child.last for child in children) else 1
        if failure.status == 2:
            shutil.rmtree(directory)
            raise failure
    summary = _finish(scenario, directory, children, time.monotonic() - began, links, failure)
    if failure is not None:
        how = "ended early" if isinstance(failure, BrokerError) else "interrupted"
        progress("runner", {"event": "ended", "text": f"{how}; run directory: {directory}"})
        raise failure
    return summary


async def _measured(lab: Lab, progress: Progress) -> None:
    """Say what the links are, and measure them."""
    if lab.backend.name == "none":
        return
    progress.say(f"links: {lab.backend.name}, {lab.why}; congestion control {lab.congestion or 'of the system'}")
    checks = await lab.calibrate()
    if checks:
        worst = max(checks, key=lambda check: abs(check.error_percent) / check.allowed_percent)
        progress.say(
            f"links: {len(checks)} figures measured, the worst is {worst.what} of {worst.client} {worst.direction}, "
            f"{worst.error_percent:+.1f} %"
        )


async def _start(
    scenario: Scenario,
    directory: Path,
    lab: Lab,
    broker: Address,
    on_event: OnEvent,
    children: list[Child],
) -> None:
    """Start server and agents where the links want them, each with its configuration as a file."""
    secure = is_secure(scenario.broker)
    configs = {"server": (lab.server.prefix, as_table(scenario.server(url(broker, secure), directory)))}
    for number, name in enumerate(scenario.agents()):
        address = await lab.address(name, broker)
        configs[name] = (lab.client(name), as_table(scenario.agent(number, url(address, secure), directory)))
    for name, (prefix, config) in configs.items():
        path = directory / f"{name}.toml"
        path.write_text(tomli_w.dumps(config))
        module = "training_server" if name == "server" else "edge_agent"
        child = Child(name, module, path, directory / f"{name}.log", on_event, prefix)
        await child.start()
        children.append(child)


def url(address: Address, secure: bool = False) -> str:
    """A broker's address as the programs are told it."""
    return f"{'mqtts' if secure else 'mqtt'}://{address.host}:{address.port}"


@contextlib.asynccontextmanager
async def _stopped(children: list[Child]) -> AsyncIterator[None]:
    """End all children on the way out: the server first, which tells the agents."""
    try:
        yield
    finally:
        await asyncio.gather(*(child.stop(PATIENCE_S) for child in children))


def _finish(
    scenario: Scenario,
    directory: Path,
    children: list[Child],
    wall_s: float,
    links: dict[str, Any],
    failure: BaseException | None,
) -> dict[str, Any]:
    """Write the summary: all counts, or only how the run ended where a process could not give its own."""
    top = head(scenario, "finished" if failure is None else str(failure) or "interrupted")
    records = {child.name: child.records() for child in children}
    if not records or not all(records.values()):
        return write_summary(directory, top | {"wall_s": round(wall_s, 2)})
    server = records.pop("server")
    counts = summarize(server, records, wall_s, broker_counts(scenario.name, directory), links)
    return write_summary(directory, top | counts)


def head(scenario: Scenario, end: str) -> dict[str, Any]:
    """What the summary of every run begins with, however it ended."""
    broker = scenario.broker if scenario.transport == "mqtt" else None
    return {"scenario": scenario.name, "transport": scenario.transport, "broker": broker, "end": end}


def broker_counts(run: str, directory: Path) -> dict[str, Any] | None:
    """What the embedded broker counted of each client of the run, by the client's name; None for other brokers."""
    path = directory / "broker.json"
    if not path.is_file():
        return None
    clients = json.loads(path.read_text())["clients"]
    return {"clients": {client_id.removeprefix(f"sc-{run}-"): count for client_id, count in clients.items()}}


def write_summary(directory: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Write `summary.json` (numbers that are not finite become null) and return it with the run directory."""
    summary = finite(summary) | {"run_dir": str(directory)}
    (directory / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def finite(value: Any) -> Any:
    """The same structure with None for every number that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
