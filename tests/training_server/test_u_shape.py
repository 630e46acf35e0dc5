"""The U-shape over a plane that damages, loses and repeats messages: who notices, and how the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.messages import ActivationDown, ActivationUp, EpochEnd, GradientUp, Hello, Message, StepRefused
from splitcom.stream import StreamEncoder
from testbed.scenario import Scenario
from tests.faults import FaultyHub, corrupt, once
from tests.runs import metrics, run_tiny, tiny_scenario, with_agents
from training_server.run import Run
from training_server.session import PendingStep, Session

GATED = {"gate": "cosine", "threshold": -1.0}  # whatever has a reference is skipped


def u_scenario(base: Path, *names: str, **layer: Any) -> Scenario:
    return tiny_scenario(base, *(names or ("splitcom",)), "u-shape", **layer)


def gated(base: Path, **layer: Any) -> Scenario:
    names = ("activation_up", "activation_down", "gradient_up", "gradient_down")
    return u_scenario(base, "all-gates", clients=1, streams=dict.fromkeys(names, GATED), **layer)


def test_all_four_streams_are_gated_and_their_memory_is_in_the_books(tiny_base: Path, tmp_path: Path) -> None:
    summary = run_tiny(gated(tiny_base), tmp_path / "run")
    assert summary["skip_ratios"] == dict.fromkeys(summary["skip_ratios"], 0.5)
    assert len(summary["skip_ratios"]) == 4
    assert summary["events"] == {}
    assert summary["up"]["kinds"]["label"] == 0
    memory = summary["agent_memory_bytes"]["agent0"]
    # What it sends it knows by sketches, what it gets it holds whole: 23 samples of some 60 tokens of 32 floats.
    assert memory["activation_up"] == memory["gradient_up"] == 23 * (64 * 4 + 20)
    assert memory["activation_down"] == memory["gradient_down"] > 23 * 20 * 32 * 4


def test_full_memory_keeps_whole_tensors_at_the_sender(tiny_base: Path, tmp_path: Path) -> None:
    streams = {"activation_up": {**GATED, "sender_memory": "full"}}
    memory = run_tiny(u_scenario(tiny_base, clients=1, streams=streams), tmp_path / "run")["agent_memory_bytes"]
    assert memory["agent0"]["activation_up"] == memory["agent0"]["activation_down"]


def test_a_frozen_head_still_trains_body_and_tail(tiny_base: Path, tmp_path: Path) -> None:
    summary = run_tiny(u_scenario(tiny_base, "frozen-head", clients=2), tmp_path / "run")
    assert "gradient_down" not in summary["skip_ratios"]
    assert summary["skip_ratios"]["activation_up"] == 0.5
    assert summary["adapter_bytes"] > 0
    assert summary["perplexity"] < summary["perplexity_before"]


def test_barrier_steps_once_on_all_clients(tiny_base: Path, tmp_path: Path) -> None:
    run_tiny(u_scenario(tiny_base, clients=3, data={"train": 20}), tmp_path / "run")
    rows = metrics(tmp_path / "run", "step")
    assert [row["clients"] for row in rows] == [["agent0", "agent1", "agent2"]] * 4


@pytest.mark.slow
def test_arrival_has_several_steps_on_their_way_at_once(tiny_base: Path, tmp_path: Path) -> None:
    scenario = u_scenario(tiny_base, clients=3, training={"step_policy": "arrival", "epochs": 3})
    summary = run_tiny(scenario, tmp_path / "run")
    rows = metrics(tmp_path / "run", "step")
    assert all(len(row["clients"]) == 1 for row in rows)
    assert len(rows) == summary["steps"] == 18
    assert max(row["staleness"][0] for row in rows) > 0
    assert summary["perplexity"] < summary["perplexity_before"]


def test_a_corrupt_output_of_the_body_makes_the_client_try_again_with_keyframes(
    tiny_base: Path, tmp_path: Path
) -> None:
    second_epoch = once(lambda m: isinstance(m, ActivationDown) and m.step == 7, corrupt)
    summary = run_tiny(gated(tiny_base), tmp_path / "run", FaultyHub(second_epoch))
    assert summary["events"]["lost_step"] == 1
    assert summary["events"]["superseded_step"] == 1
    assert summary["events"]["forced_keyframe"] >= 8  # of both activations; the gradients had not gone out yet
    assert summary["steps"] == 12


def test_a_corrupt_gradient_of_the_tail_is_refused_and_the_step_is_tried_again(tiny_base: Path, tmp_path: Path) -> None:
    refused: list[StepRefused] = []
    damage = once(lambda m: isinstance(m, GradientUp) and m.step == 7, corrupt)

    def tamper(sender: str, peer: str, message: Message) -> Message | None:
        if isinstance(message, StepRefused):
            refused.append(message)
        return damage(sender, peer, message)

    summary = run_tiny(gated(tiny_base), tmp_path / "run", FaultyHub(tamper))
    assert [(message.step, "checksum" in message.reason) for message in refused] == [(7, True)]
    assert summary["events"]["refused_step"] == 2  # once by each end
    assert summary["steps"] == 12
    assert len(metrics(tmp_path / "run", "step")) == 12


@pytest.mark.parametrize("kind", [ActivationDown, GradientUp])
def test_a_message_that_is_lost_in_the_middle_of_a_step_costs_one_try(
    tiny_base: Path, tmp_path: Path, kind: type[Any]
) -> None:
    lost = once(lambda m: isinstance(m, kind) and m.step == 7, lambda m: None)
    scenario = gated(tiny_base, training={"reply_timeout_s": 1.0})
    summary = run_tiny(scenario, tmp_path / "run", FaultyHub(lost))
    assert summary["events"]["lost_step"] == 1
    assert summary["events"]["superseded_step"] == 1
    assert summary["steps"] == 12


def test_a_client_that_gives_up_in_the_middle_of_a_step_does_not_hold_the_others(
    tiny_base: Path, tmp_path: Path
) -> None:
    """Its rows of the step are left out; its next try is part of the next step."""
    scenario = u_scenario(tiny_base, clients=2, data={"train": 16})
    damage = once(lambda m: isinstance(m, ActivationDown), corrupt)
    summary = run_tiny(scenario, tmp_path / "run", FaultyHub(damage))
    rows = metrics(tmp_path / "run", "step")
    assert sum(len(row["clients"]) for row in rows) == 8
    assert [len(row["clients"]) for row in rows].count(1) == 2
    assert summary["events"]["superseded_step"] == 1


@pytest.mark.slow
def test_repeated_messages_are_no_ops(tiny_base: Path, tmp_path: Path) -> None:
    plain = run_tiny(u_scenario(tiny_base, clients=2), tmp_path / "plain")

    class Twice(FaultyHub):
        def server(self, run: str) -> Any:
            return doubled(super().server(run))

        def agent(self, name: str, run: str) -> Any:
            return doubled(super().agent(name, run))

    def doubled(channel: Any) -> Any:
        send: Callable[..., Any] = channel.send

        async def twice(peer: str, message: Any) -> Any:
            if isinstance(message, ActivationUp | ActivationDown | GradientUp | EpochEnd):
                await send(peer, message)
            return await send(peer, message)

        channel.send = twice
        return channel

    summary = run_tiny(u_scenario(tiny_base, clients=2), tmp_path / "twice", Twice(lambda sender, peer, m: m))
    assert summary["events"]["duplicate_message"] > 0
    assert summary["events"]["stale_reply"] > 0
    assert summary["perplexity"] == plain["perplexity"]
    losses = [[row["loss"] for row in metrics(tmp_path / name, "step")] for name in ("plain", "twice")]
    assert losses[0] == losses[1]


def test_labels_that_come_in_the_u_shape_are_refused_unread(tiny_base: Path, tmp_path: Path) -> None:
    told: list[str] = []
    leak = once(lambda m: isinstance(m, ActivationUp), lambda m: replace(m, labels=b"secret"))

    def tamper(sender: str, peer: str, message: Message) -> Message | None:
        if isinstance(message, StepRefused):
            told.append(message.reason)
        return leak(sender, peer, message)

    summary = run_tiny(u_scenario(tiny_base, clients=1), tmp_path / "run", FaultyHub(tamper))
    assert told == ["labels: they came with a step of the U-shape, where they stay with the client"]
    assert summary["end"] == "finished"


def test_an_agent_that_keeps_its_labels_leaves_a_run_that_asks_for_them(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        run_tiny(with_agents(tiny_scenario(tiny_base, clients=1), keep_labels=True), tmp_path / "standard")
    said = (
        "model.shape: the server asks for labels (standard), and this agent keeps them (keep_labels = true); valid: u"
    )
    assert any(said in str(error) for error in caught.value.exceptions)
    keeping = with_agents(u_scenario(tiny_base, clients=1), keep_labels=True)
    assert run_tiny(keeping, tmp_path / "u")["end"] == "finished"


def offered(state: Run, session: Session, step: int) -> PendingStep:
    """A step of two samples that the client offers, decoded and pending."""
    encoder = StreamEncoder("activation_up", state.config.streams.activation_up, 32, 0)
    tensors = [np.full((tokens, 32), 0.1 * step, np.float32) for tokens in (5, 7)]
    encoder._last_step = step - 1
    message = ActivationUp(step, 0, encoder.encode(step, [3, 4], tensors).data, b"", -1, [])
    assert state.decode(session, message) is None
    assert session.pending is not None
    return session.pending


def test_a_step_that_was_given_up_meanwhile_is_neither_sent_on_nor_trained(tiny_base: Path, tmp_path: Path) -> None:
    """The event loop had picked it before the client's next try was decoded."""
    scenario = u_scenario(tiny_base, clients=1)
    state = Run(scenario.server("mqtt://127.0.0.1:0", tmp_path / "run"), tmp_path / "run")
    session = state.session(Hello("agent0", 1, 1, 4, state.base_digest, "test"))
    state.begin([4])
    session.begin(0)
    old = offered(state, session, 0)
    new = offered(state, session, 1)
    assert state.forward([(session, old)])[1] == []
    assert session.pending is new
    assert not session.out
    on_way, answers = state.forward([(session, old), (session, new)])
    assert [type(message) for _, messages in answers for message in messages] == [ActivationDown]
    newer = offered(state, session, 2)
    assert state.backward(on_way) == []
    assert (session.pending, state.steps) == (newer, 0)
    state.close()
