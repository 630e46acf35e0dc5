"""The links of a run: made, measured, changed from the timeline and from outside, recorded, and gone."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from broker.congestion import system_default
from broker.engines import engine
from testbed.links import namespaces, registry
from testbed.links.capabilities import capabilities, why_not
from testbed.links.commands import ask
from testbed.links.errors import LinkError
from testbed.links.kernel import command
from testbed.links.lab import Lab
from testbed.links.links_config import LinksConfig
from testbed.links.netns import Netns
from testbed.links.profile import LinkProfile, parse
from testbed.links.record import NAME
from testbed.links.tun import Tun
from tests.testbed.links.needs import needs

pytestmark = needs("netns")


@pytest.fixture
def run() -> str:
    return f"t{uuid.uuid4().hex[:8]}"


def events(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / NAME).read_text().splitlines()]


def test_a_run_without_profiles_makes_nothing(run: str, tmp_path: Path) -> None:
    async def go() -> tuple[Any, dict[str, Any]]:
        async with Lab(run, LinksConfig(), ["agent0"], tmp_path) as lab:
            await lab.calibrate()
            return lab.server, await lab.records()

    place, records = asyncio.run(go())
    assert (place.host, place.prefix) == ("127.0.0.1", ())
    assert records == {"backend": "none", "congestion": system_default(), "kernel": os.uname().release}
    assert [(event["event"], event["backend"]) for event in events(tmp_path)] == [("made", "none")]


@pytest.mark.slow
def test_links_are_measured_and_recorded(run: str, tmp_path: Path) -> None:
    config = LinksConfig(profile="up=5mbit down=8mbit", congestion="cubic")

    async def go() -> dict[str, Any]:
        async with Lab(run, config, ["agent0", "agent1"], tmp_path) as lab:
            await lab.calibrate()
            return await lab.records()

    records = asyncio.run(go())
    assert records["backend"] == "netns"
    assert [check["what"] for check in records["checks"]] == ["rate"] * 4
    assert records["counters"]["agent0"]["up"]["l2_bytes"] < 10_000  # the measuring is not counted
    made, *measurements, _ = events(tmp_path)
    measured = measurements[-1]
    assert made["capabilities"]["kernel"] == os.uname().release
    assert made["facts"]["kernel_links"]["agent0"]["up"]["rate_bps"] == 5_000_000
    assert [check["ok"] for check in measured["checks"]] == [True] * 4
    assert registry.find(run) is None


@pytest.mark.slow
def test_a_link_that_is_not_what_it_should_be_ends_the_run(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LinksConfig(profile="up=5mbit down=5mbit", congestion="cubic")

    async def go() -> None:
        async with Lab(run, config, ["agent0"], tmp_path) as lab:
            change = lab.backend.set

            async def slower(name: str, profile: LinkProfile) -> None:
                await change(name, parse("up=4mbit down=5mbit"))

            monkeypatch.setattr(lab.backend, "set", slower)
            await lab.calibrate()

    with pytest.raises(LinkError, match=r"agent0 up: rate is -\d+\.\d % off"):
        asyncio.run(go())
    assert not [name for name in namespaces.listed("splitcom-") if run in name]


def test_the_timeline_counts_from_the_beginning_of_training(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = LinksConfig(profile="up=5mbit", timeline=("0.2s agent0: up=1mbit", "0.1s all: up=2mbit"), calibrate_s=0)

    async def go() -> dict[str, str]:
        async with Lab(run, config, ["agent0", "agent1"], tmp_path) as lab:
            done = asyncio.Event()
            change = lab.set

            async def told(name: str, profile: LinkProfile, by: str) -> None:
                await change(name, profile, by)
                if profile.up.rate == "1mbit":
                    done.set()

            monkeypatch.setattr(lab, "set", told)
            timeline = asyncio.ensure_future(lab.follow_timeline())
            await lab.begin()
            async with asyncio.timeout(10):
                await done.wait()
                await timeline
            return {name: profile.text() for name, profile in lab.profiles.items()}

    assert asyncio.run(go()) == {"agent0": "up=1mbit", "agent1": "up=2mbit"}
    told = [(event["client"], event["profile"]) for event in events(tmp_path) if event["event"] == "set"]
    assert told == [("agent0", "up=2mbit"), ("agent1", "up=2mbit"), ("agent0", "up=1mbit")]


def test_a_change_that_fails_is_told_at_once(run: str, tmp_path: Path) -> None:
    config = LinksConfig(profile="up=5mbit", timeline=("0s agent0: up=1mbit",), calibrate_s=0)

    async def go() -> None:
        async with Lab(run, config, ["agent0"], tmp_path) as lab:
            hub = next(name for name in namespaces.listed("splitcom-") if f"{run}-hub" in name)
            await command(f"ip -n {hub} link del u0")
            timeline = asyncio.ensure_future(lab.follow_timeline())
            await lab.begin()
            await timeline

    with pytest.raises(LinkError, match=r"u0.* does not exist"):
        asyncio.run(go())
    assert not [name for name in namespaces.listed("splitcom-") if run in name]


def test_a_command_from_outside_changes_a_link_and_is_recorded(run: str, tmp_path: Path) -> None:
    config = LinksConfig(profile="up=5mbit", calibrate_s=0)
    trace = tmp_path / "trace"
    trace.write_text("1\n2\n")

    async def go() -> dict[str, Any]:
        async with Lab(run, config, ["agent0"], tmp_path):
            owner = registry.find(run)
            assert owner is not None
            command = {"do": "set", "client": "agent0", "profile": parse("up=3mbit").table()}
            await ask(owner.socket, command)
            with pytest.raises(LinkError, match="'agent9' is no client"):
                await ask(owner.socket, command | {"client": "agent9"})
            exact = parse(f"up=mahimahi:{trace}").table()
            with pytest.raises(LinkError, match="mahimahi"):
                await ask(owner.socket, command | {"profile": exact})
            return await ask(owner.socket, {"do": "show"})

    shown = asyncio.run(go())
    assert shown["links"] == {"agent0": "up=3mbit"}
    assert events(tmp_path)[-1] | {"by": "command", "profile": "up=3mbit"} == events(tmp_path)[-1]


def test_the_same_name_twice_is_refused(run: str, tmp_path: Path) -> None:
    config = LinksConfig(profile="up=5mbit", calibrate_s=0)

    async def go() -> None:
        async with (
            Lab(run, config, ["agent0"], tmp_path),
            Lab(run, config, ["agent0"], tmp_path),
        ):
            raise AssertionError

    with pytest.raises(LinkError, match="in use by process"):
        asyncio.run(go())


def test_both_brokers_listen_in_the_place_of_the_server(run: str, tmp_path: Path) -> None:
    config = LinksConfig(profile="up=50mbit", congestion="cubic", calibrate_s=0)
    hello = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close(); print('there')"

    async def go(broker: str) -> bytes:
        directory = tmp_path / broker
        directory.mkdir()
        async with (
            Lab(run, config, ["agent0"], directory) as lab,
            engine(broker, directory, lab.server) as address,
        ):
            host, port = await lab.address("agent0", address)
            command = [*lab.client("agent0"), sys.executable, "-c", hello, host, str(port)]
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            return (await process.communicate())[0]

    assert asyncio.run(go("embedded")) == b"there\n"
    assert asyncio.run(go("mosquitto")) == b"there\n"


@pytest.mark.parametrize(("backend", "profile"), [("tun", "up=5mbit delay=1ms"), ("netns", "up=1mbit+2mbit@60s")])
def test_what_carries_links_and_ends_is_told_at_once(run: str, tmp_path: Path, backend: str, profile: str) -> None:
    refusal = why_not(backend, {"rate"}, capabilities())
    if refusal:
        pytest.skip(refusal)
    config = LinksConfig(backend=backend, profile=profile, calibrate_s=0)

    async def go() -> None:
        async with Lab(run, config, ["agent0"], tmp_path) as lab:
            watching = asyncio.ensure_future(lab.watch())
            await lab.begin()
            assert not watching.done()
            if isinstance(lab.backend, Tun):
                process = lab.backend._emulator._process
                assert process is not None
                process.kill()
            else:
                hub = next(name for name in namespaces.listed("splitcom-") if f"{run}-hub" in name)
                await command(f"ip -n {hub} link del u0")
                assert isinstance(lab.backend, Netns)
                for track in lab.backend._playback._tracks.values():
                    track.bytes_per_s = 0  # as if the next step had another rate
            await watching

    with pytest.raises(LinkError, match=r"emulator ended" if backend == "tun" else r"No such device|does not exist"):
        asyncio.run(asyncio.wait_for(go(), 60))
    assert not [name for name in namespaces.listed("splitcom-") if run in name]


def test_the_record_has_the_trace_and_the_congestion_of_the_sockets(run: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("t_s,up_bps,down_bps\n0,2000000,3000000\n60,1000000,1000000\n")
    directory = tmp_path / "run"
    directory.mkdir()
    config = LinksConfig(profile=f"up=csv:{trace} down=csv:{trace}", calibrate_s=0, congestion="reno")

    async def go() -> None:
        async with Lab(run, config, ["agent0"], directory) as lab, engine("embedded", directory, lab.server) as broker:
            address = await lab.address("agent0", broker)
            code = f"import socket; s = socket.create_connection({tuple(address)!r}); print(flush=True); input()"
            joined = await asyncio.create_subprocess_exec(
                *lab.client("agent0"),
                sys.executable,
                "-c",
                code,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            assert joined.stdout is not None
            await joined.stdout.readline()
            await lab.begin()
            await joined.communicate(b"\n")

    asyncio.run(asyncio.wait_for(go(), 60))
    made = next(event for event in events(directory) if event["event"] == "made")
    copy = directory / made["traces"][str(trace)]
    assert copy.read_text() == trace.read_text()
    sockets = next(event for event in events(directory) if event["event"] == "sockets")
    assert sockets["congestion"] == {"reno": 2}
