"""How a run ends early: by name, and after every agent was told; and how `arrival` differs from `barrier`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.channel import Channel, ChannelConfig, Malformed
from broker.errors import DeadlineError, VersionError
from broker.memory import MemoryHub
from broker.messages import ActivationUp, Begin, End, EpochEnd, Failure, Hello, State, StepRefused, Welcome
from broker.topics import PROTOCOL
from splitcom.config import BaseConfig
from splitcom.errors import SplitComError
from testbed.scenario import Scenario
from tests.faults import FaultyHub
from tests.runs import metrics, run_tiny, tiny_scenario, with_agents
from training_server.run import Run
from training_server.server import Server

Script = Callable[[Channel, Hello], Awaitable[Any]]


def serve(scenario: Scenario, directory: Path, *scripts: Script) -> tuple[BaseException | None, list[Any], Run]:
    """A server against scripted clients: what it raised, what each script returned, and the server's state."""

    async def main() -> tuple[BaseException | None, list[Any], Run]:
        hub = MemoryHub(ChannelConfig())
        state = Run(scenario.server("mqtt://127.0.0.1:0", directory), directory)

        async def client(number: int, script: Script) -> Any:
            async with hub.agent(f"agent{number}", scenario.name) as channel:
                hello = Hello(channel.name, channel.boot, PROTOCOL, 4, state.base_digest, "test")
                return await script(channel, hello)

        with ThreadPoolExecutor(1) as compute:
            async with hub.server(scenario.name) as channel:
                server = Server(state.config, channel, state, compute, lambda event: None)
                clients = [asyncio.create_task(client(i, script)) for i, script in enumerate(scripts)]
                outcome = (await asyncio.gather(server.run(), return_exceptions=True))[0]
                said = await asyncio.gather(*clients)
        state.close()
        return outcome, said, state

    return asyncio.run(asyncio.wait_for(main(), 60))


async def expect(channel: Channel, kind: type[Any]) -> Any:
    """The next message that is no state; it has to be of the kind."""
    while True:
        _, message = await channel.receive()
        if not isinstance(message, State):
            assert isinstance(message, kind), message
            return message


async def silent(channel: Channel, hello: Hello) -> End:
    """Joins, and never sends a batch."""
    await channel.send("server", hello)
    await expect(channel, Welcome)
    await expect(channel, Begin)
    end: End = await expect(channel, End)
    return end


def test_a_silent_client_ends_the_run_by_name_and_everybody_is_told(tiny_base: Path, tmp_path: Path) -> None:
    scenario = tiny_scenario(tiny_base, clients=2, training={"progress_deadline_s": 0.3})
    outcome, said, _ = serve(scenario, tmp_path / "run", silent, silent)
    assert isinstance(outcome, DeadlineError)
    assert "client agent0 made no progress for 0.3 s (epoch 0, step -1, awaiting its next batch)" in str(outcome)
    assert all(not end.ok and end.reason == str(outcome) for end in said)


def test_a_client_that_leaves_without_a_word_is_named(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training_server.server.OFFLINE_GRACE_S", 0.2)

    async def vanishing(channel: Channel, hello: Hello) -> None:
        await channel.send("server", hello)
        await expect(channel, Welcome)
        await expect(channel, Begin)

    outcome, said, _ = serve(tiny_scenario(tiny_base, clients=2), tmp_path / "run", silent, vanishing)
    assert isinstance(outcome, DeadlineError)
    assert "client agent1 has been offline for 0.2 s" in str(outcome)
    assert not said[0].ok


def test_a_client_that_fails_ends_the_run_with_its_reason(tiny_base: Path, tmp_path: Path) -> None:
    async def failing(channel: Channel, hello: Hello) -> End:
        await channel.send("server", hello)
        await expect(channel, Welcome)
        await channel.send("server", Failure("no disk"))
        return await silent_end(channel)

    async def silent_end(channel: Channel) -> End:
        message = await expect(channel, Begin | End)  # type: ignore[arg-type]
        return message if isinstance(message, End) else await expect(channel, End)

    outcome, said, _ = serve(tiny_scenario(tiny_base, clients=1), tmp_path / "run", failing)
    assert isinstance(outcome, SplitComError)
    assert str(outcome) == said[0].reason == "client agent0 failed: no disk"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol": 2}, "client agent0 speaks protocol 2; this server speaks 1"),
        ({"base": "0" * 16}, "client agent0 has another base (0000000000000000) than the server"),
    ],
)
def test_a_client_that_does_not_fit_is_told_why_and_the_run_waits_on(
    tiny_base: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    async def odd(channel: Channel, hello: Hello) -> End:
        await channel.send("server", replace(hello, **changes))
        end: End = await expect(channel, End)
        return end

    scenario = tiny_scenario(tiny_base, clients=1, training={"round_deadline_s": 0.5})
    outcome, said, _ = serve(scenario, tmp_path / "run", odd)
    assert isinstance(outcome, DeadlineError)
    assert "0 of 1 clients said hello within 0.5 s: none" in str(outcome)
    assert not said[0].ok
    assert said[0].reason.startswith(reason)


@pytest.mark.slow
def test_one_client_too_many_is_told_that_the_run_is_full(tiny_base: Path, tmp_path: Path) -> None:
    joined = asyncio.Event()

    async def first(channel: Channel, hello: Hello) -> End:
        await channel.send("server", hello)
        await expect(channel, Welcome)
        joined.set()
        await expect(channel, Begin)
        end: End = await expect(channel, End)
        return end

    async def second(channel: Channel, hello: Hello) -> End:
        await joined.wait()
        await channel.send("server", hello)
        end: End = await expect(channel, End)
        return end

    scenario = tiny_scenario(tiny_base, clients=1, training={"progress_deadline_s": 2.0})
    _, said, _ = serve(scenario, tmp_path / "run", first, second)
    assert said[1] == End(False, "client agent1: the run has its 1 clients already")


def test_nonsense_in_place_of_a_packet_is_refused_with_the_reason(tiny_base: Path, tmp_path: Path) -> None:
    async def noisy(channel: Channel, hello: Hello) -> list[str]:
        await channel.send("server", hello)
        await expect(channel, Welcome)
        await expect(channel, Begin)
        reasons = []
        for step, packet in enumerate([b"", b"nonsense", bytes(4096)]):
            await channel.send("server", ActivationUp(step, 0, packet, b"", -1, []))
            reasons.append((await expect(channel, StepRefused)).reason)
        await channel.send("server", Failure("enough"))
        return reasons

    _, said, state = serve(tiny_scenario(tiny_base, clients=1), tmp_path / "run", noisy)
    assert all(said[0])
    assert all("\n" not in reason for reason in said[0])
    assert state.ledger.events["refused_step"] == 3
    assert metrics(tmp_path / "run", "step") == []


def test_a_peer_of_another_protocol_version_ends_the_run_before_it_begins(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def foreign(channel: Channel, hello: Hello) -> None:
        await channel.send("server", Hello(hello.client, hello.boot, 1, 4, "0" * 16, "test"))

    original = Server._dispatch

    async def dispatch(self: Server, client: str, message: Any) -> None:
        foreign_message = Malformed("it speaks protocol 2, this program speaks 1", version_mismatch=True)
        await original(self, client, foreign_message if isinstance(message, Hello) else message)

    monkeypatch.setattr(Server, "_dispatch", dispatch)
    outcome, _, _ = serve(tiny_scenario(tiny_base, clients=1), tmp_path / "run", foreign)
    assert isinstance(outcome, VersionError)
    assert str(outcome) == "client agent0: it speaks protocol 2, this program speaks 1"


def test_barrier_steps_on_all_clients_that_still_have_batches(tiny_base: Path, tmp_path: Path) -> None:
    summary = run_tiny(tiny_scenario(tiny_base, clients=3, data={"train": 20}), tmp_path / "run")
    rows = metrics(tmp_path / "run", "step")
    # 7, 7 and 6 samples in batches of 4: two steps an epoch for all three.
    assert [row["clients"] for row in rows] == [["agent0", "agent1", "agent2"]] * 4
    assert all(row["staleness"] == [0, 0, 0] for row in rows)
    assert summary["steps"] == 4


def test_a_client_past_its_shard_is_not_waited_for(tiny_base: Path, tmp_path: Path) -> None:
    run_tiny(tiny_scenario(tiny_base, clients=2, data={"train": 9}, training={"epochs": 1}), tmp_path / "run")
    assert [row["clients"] for row in metrics(tmp_path / "run", "step")] == [["agent0", "agent1"], ["agent0"]]


def test_arrival_steps_on_every_batch_and_records_how_stale_it_was(tiny_base: Path, tmp_path: Path) -> None:
    """The clients' first batches arrive together, so that two of them meet a server that has stepped meanwhile."""
    together = asyncio.Barrier(3)

    class Joined(FaultyHub):
        def agent(self, name: str, run: str) -> Any:
            channel = super().agent(name, run)
            send = channel.send
            first = True

            async def joined(peer: str, message: Any) -> int:
                nonlocal first
                if isinstance(message, ActivationUp) and first:
                    first = False
                    await together.wait()
                return await send(peer, message)

            channel.send = joined  # type: ignore[method-assign]
            return channel

    scenario = tiny_scenario(tiny_base, clients=3, training={"step_policy": "arrival"})
    summary = run_tiny(scenario, tmp_path / "run", Joined(lambda sender, peer, message: message))
    rows = metrics(tmp_path / "run", "step")
    assert all(len(row["clients"]) == 1 for row in rows)
    assert summary["steps"] == len(rows) == 12
    assert together.n_waiting == 0
    assert max(row["staleness"][0] for row in rows[:3]) > 0
    assert [row["epoch"] for row in metrics(tmp_path / "run", "evaluation")] == [-1, 0, 1]


def test_arrival_waits_for_nobody(tiny_base: Path, tmp_path: Path) -> None:
    """One client's first batch is held back until another has done all its epochs."""
    done = asyncio.Event()

    class Held(FaultyHub):
        def agent(self, name: str, run: str) -> Any:
            channel = super().agent(name, run)
            send, receive = channel.send, channel.receive

            async def held(peer: str, message: Any) -> int:
                if isinstance(message, ActivationUp) and name == "agent1":
                    await done.wait()
                return await send(peer, message)

            async def watched() -> Any:
                got = await receive()
                if isinstance(got[1], Begin) and got[1].epoch == 1 and name == "agent0":
                    done.set()
                return got

            channel.send, channel.receive = held, watched  # type: ignore[method-assign]
            return channel

    scenario = tiny_scenario(tiny_base, clients=2, training={"step_policy": "arrival"})
    summary = run_tiny(scenario, tmp_path / "run", Held(lambda sender, peer, message: message))
    rows = metrics(tmp_path / "run", "step")
    assert [row["clients"] for row in rows[:3]] == [["agent0"]] * 3
    assert summary["end"] == "finished"


def test_a_frozen_head_gets_nothing_and_sends_its_activations_once(tiny_base: Path, tmp_path: Path) -> None:
    summary = run_tiny(tiny_scenario(tiny_base, "frozen-head", clients=2), tmp_path / "run")
    assert summary["down"]["kinds"]["gradient"] == summary["down"]["kinds"]["adapter"] == 0
    assert summary["up"]["kinds"]["adapter"] == 0
    assert summary["skip_ratio"] == 0.5  # the first of two epochs is all keyframes
    assert summary["perplexity"] < summary["perplexity_before"]


@pytest.mark.slow
def test_a_base_in_bfloat16_trains(tiny_base: Path, tmp_path: Path) -> None:
    summary = run_tiny(tiny_scenario(tiny_base, clients=1, model={"dtype": "bfloat16"}), tmp_path / "run")
    assert summary["perplexity"] < summary["perplexity_before"]


def test_training_that_diverges_ends_the_run_and_says_where(tiny_base: Path, tmp_path: Path) -> None:
    # Half precision without loss scaling: the large weights of the tiny base overflow its range.
    scenario = tiny_scenario(tiny_base, clients=1, model={"dtype": "float16"})
    with pytest.raises(BaseExceptionGroup) as caught:
        run_tiny(scenario, tmp_path / "run")
    texts = [str(error) for error in caught.value.exceptions]
    assert any("activation_up: sample" in text and "not finite" in text for text in texts)


@pytest.mark.slow
def test_server_and_agents_may_compute_in_different_precisions(tiny_base: Path, tmp_path: Path) -> None:
    scenario = tiny_scenario(tiny_base, "all-gates", clients=2, model={"dtype": "bfloat16"})
    summary = run_tiny(with_agents(scenario, model=BaseConfig(str(tiny_base), dtype="float32")), tmp_path / "run")
    assert summary["perplexity"] < summary["perplexity_before"]


def test_whatever_goes_wrong_in_the_receiver_ends_the_run_at_once(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Run, session: Any, message: Any) -> None:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(Run, "decode", broken)
    with pytest.raises(BaseExceptionGroup) as caught:
        run_tiny(tiny_scenario(tiny_base, clients=1), tmp_path / "run")
    assert any(isinstance(error, ZeroDivisionError) for error in caught.value.exceptions)


@pytest.mark.parametrize("end", [EpochEnd(0, 4, 1, b"", -1, []), EpochEnd(0, 0, 0, b"x", -1, [])])
def test_a_client_that_ends_an_epoch_without_its_share_is_named(tiny_base: Path, tmp_path: Path, end: EpochEnd) -> None:
    async def empty_handed(channel: Channel, hello: Hello) -> End:
        await channel.send("server", hello)
        await expect(channel, Welcome)
        await expect(channel, Begin)
        await channel.send("server", end)
        told: End = await expect(channel, End)
        return told

    outcome, said, _ = serve(tiny_scenario(tiny_base, clients=1), tmp_path / "run", empty_handed)
    assert str(outcome) == said[0].reason == "client agent0: epoch 0 ended without an adapter or without examples"


@pytest.mark.slow
def test_adapters_may_be_exchanged_more_rarely_than_every_epoch(tiny_base: Path, tmp_path: Path) -> None:
    often, rarely = (
        run_tiny(
            tiny_scenario(tiny_base, clients=2, training={"epochs": 3}, adapters={"every": every}),
            tmp_path / str(every),
        )
        for every in (1, 2)
    )
    # Up after three epochs and down after two of them; or up after the second and the last, down after the second.
    assert often["up"]["kinds"]["adapter"] * 2 == rarely["up"]["kinds"]["adapter"] * 3
    assert often["down"]["kinds"]["adapter"] == rarely["down"]["kinds"]["adapter"] * 2


@pytest.mark.parametrize("policy", ["barrier", "arrival"])
def test_adapters_cross_as_quantized_changes_at_a_quarter_of_the_bytes(
    tiny_base: Path, tmp_path: Path, policy: str
) -> None:
    whole, changes = (
        run_tiny(
            tiny_scenario(tiny_base, clients=2, adapters={"codec": codec}, training={"step_policy": policy}),
            tmp_path / codec,
        )
        for codec in ("fp32", "int8")
    )
    assert changes["adapter_bytes"] < 0.3 * whole["adapter_bytes"]
    assert changes["perplexity"] == pytest.approx(whole["perplexity"], rel=0.1)


@pytest.mark.slow
def test_eager_attention_trains_as_sdpa_does(tiny_base: Path, tmp_path: Path) -> None:
    found = [
        run_tiny(tiny_scenario(tiny_base, clients=2, model={"attention": name}), tmp_path / name)["perplexity"]
        for name in ("sdpa", "eager")
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_unequal_shards_by_group_train_too(tiny_base: Path, tmp_path: Path) -> None:
    scenario = tiny_scenario(tiny_base, clients=3, data={"shards": "dirichlet", "alpha": 0.3})
    summary = run_tiny(scenario, tmp_path / "run")
    assert summary["end"] == "finished"
    assert len({len(row["clients"]) for row in metrics(tmp_path / "run", "step")}) > 1


def test_labels_cross_once_per_sample(tiny_base: Path, tmp_path: Path) -> None:
    one, two = (
        run_tiny(tiny_scenario(tiny_base, clients=2, training={"epochs": epochs}), tmp_path / str(epochs))
        for epochs in (1, 2)
    )
    assert one["up"]["kinds"]["label"] == two["up"]["kinds"]["label"] > 0


def test_skipping_saves_bytes_and_the_books_tell_where(tiny_base: Path, tmp_path: Path) -> None:
    gated = run_tiny(
        tiny_scenario(tiny_base, clients=2, streams={"activation_up": {"threshold": 0.5}}), tmp_path / "gated"
    )
    plain = run_tiny(tiny_scenario(tiny_base, "splitlora", clients=2), tmp_path / "plain")
    assert gated["skip_ratio"] > 0
    assert plain["skip_ratio"] == 0
    stages = gated["stages"]
    assert stages["activation_up.raw"] > stages["activation_up.gated"] > stages["activation_up.coded"]
    assert stages["activation_up.coded"] >= stages["activation_up.packed"]
    kinds = gated["up"]["kinds"]
    assert kinds["keyframe"] + kinds["residual"] + kinds["skip"] < plain["up"]["kinds"]["keyframe"] / 3
    for summary in (gated, plain):
        for way in ("up", "down"):
            assert sum(summary[way]["kinds"].values()) == summary[way]["body_bytes"]


@pytest.mark.parametrize("policy", ["barrier", "arrival"])
@pytest.mark.parametrize("gate", ["cosine", "relative_l2"])
def test_gradients_may_be_gated_too(tiny_base: Path, tmp_path: Path, gate: str, policy: str) -> None:
    down = {"gate": gate, "threshold": -1.0}
    training = {"epochs": 3, "step_policy": policy}
    scenario = tiny_scenario(tiny_base, clients=2, streams={"gradient_down": down}, training=training)
    summary = run_tiny(scenario, tmp_path / "run")
    assert summary["end"] == "finished"
    assert not summary["events"]
    # At -1 everything that has a reference is skipped: two of three epochs.
    assert summary["skip_ratios"]["gradient_down"] == pytest.approx(2 / 3, abs=1e-4)
