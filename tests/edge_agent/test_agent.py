"""What an agent does when a step is refused, a reply is lost or a gradient cannot be used."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.channel import ChannelConfig
from broker.errors import DeadlineError
from broker.memory import MemoryHub
from broker.messages import ActivationUp, Begin, EpochEnd, GradientDown, Hello, StepRefused
from tests.faults import FaultyHub, corrupt, once
from tests.runs import metrics, run_tiny, tiny_scenario


def rows(directory: Path, agent: str = "agent0") -> list[dict[str, Any]]:
    lines = (directory / f"ledger-{agent}.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["row"] == "packet"]


def test_a_corrupt_packet_is_refused_counted_and_sent_again_as_keyframes(tiny_base: Path, tmp_path: Path) -> None:
    scenario = tiny_scenario(tiny_base, clients=1, streams={"activation_up": {"threshold": -1.0}})
    epoch_two = once(lambda m: isinstance(m, ActivationUp) and m.epoch == 1, corrupt)
    summary = run_tiny(scenario, tmp_path / "run", FaultyHub(epoch_two))
    assert summary["events"]["refused_step"] == 2  # once by each end
    assert summary["events"]["forced_keyframe"] == 4
    tries = [row for row in rows(tmp_path / "run") if row["epoch"] == 1][:3]
    assert [row["step"] for row in tries] == [6, 7, 8]
    assert ["skip" in row["kinds"] for row in tries] == [True, False, True]
    assert summary["steps"] == 12


def test_an_agent_whose_steps_are_always_refused_ends_the_run_by_name(tiny_base: Path, tmp_path: Path) -> None:
    scenario = tiny_scenario(tiny_base, clients=1, training={"max_refusals": 2})
    tries: list[int] = []

    def tamper(sender: str, peer: str, message: Any) -> Any:
        if isinstance(message, ActivationUp):
            tries.append(message.step)
            return corrupt(message)
        return message

    with pytest.raises(BaseExceptionGroup) as caught:
        run_tiny(scenario, tmp_path / "run", FaultyHub(tamper))
    texts = [str(error) for error in caught.value.exceptions]
    assert any("step 2 of epoch 0 was given up: packet" in text for text in texts)
    assert tries == [0, 1, 2]


def test_a_corrupt_gradient_is_refused_and_the_server_learns_of_it(tiny_base: Path, tmp_path: Path) -> None:
    told: list[list[int]] = []

    def tamper(sender: str, peer: str, message: Any) -> Any:
        if isinstance(message, ActivationUp | EpochEnd) and message.refused:
            told.append(message.refused)
        if isinstance(message, GradientDown) and message.step == 3:
            return corrupt(message)
        return message

    scenario = tiny_scenario(tiny_base, clients=1)
    summary = run_tiny(scenario, tmp_path / "run", FaultyHub(tamper))
    assert summary["events"]["refused_gradient"] == 1
    assert told == [[3]]
    assert summary["steps"] == 12  # the batch is not repeated: the server has trained on it


def test_a_lost_reply_makes_keyframes_of_the_steps_samples(tiny_base: Path, tmp_path: Path) -> None:
    scenario = tiny_scenario(
        tiny_base, clients=1, training={"reply_timeout_s": 1.0}, streams={"activation_up": {"threshold": -1.0}}
    )
    lost = once(lambda m: isinstance(m, GradientDown) and m.step == 7, lambda m: None)
    summary = run_tiny(scenario, tmp_path / "run", FaultyHub(lost))
    assert summary["events"]["lost_step"] == 1
    assert [list(row["kinds"]) for row in rows(tmp_path / "run") if row["step"] in (7, 8, 9)] == [
        ["skip"],
        ["keyframe"],
        ["skip"],
    ]


def test_a_repeated_message_is_a_no_op(tiny_base: Path, tmp_path: Path) -> None:
    scenario = tiny_scenario(tiny_base, clients=2)
    plain = run_tiny(scenario, tmp_path / "plain")

    class Twice(FaultyHub):
        def agent(self, name: str, run: str) -> Any:
            channel = super().agent(name, run)
            send = channel.send

            async def twice(peer: str, message: Any) -> int:
                if isinstance(message, ActivationUp | EpochEnd):
                    await send(peer, message)
                return await send(peer, message)

            channel.send = twice  # type: ignore[method-assign]
            return channel

    doubled = run_tiny(scenario, tmp_path / "doubled", Twice(lambda sender, peer, message: message))
    assert doubled["events"]["duplicate_message"] > 0
    assert doubled["perplexity"] == plain["perplexity"]
    losses = [[row["loss"] for row in metrics(tmp_path / name, "step")] for name in ("plain", "doubled")]
    assert losses[0] == losses[1]


def test_a_server_that_never_begins_is_named_with_the_deadline(tiny_base: Path, tmp_path: Path) -> None:
    scenario = tiny_scenario(tiny_base, clients=1, training={"round_deadline_s": 0.5})
    with pytest.raises(BaseExceptionGroup) as caught:
        run_tiny(scenario, tmp_path / "run", FaultyHub(once(lambda m: isinstance(m, Begin), lambda m: None)))
    assert any(
        isinstance(error, DeadlineError) and "the next epoch did not come within 0.5 s" in str(error)
        for error in caught.value.exceptions
    )


@pytest.mark.slow
def test_another_base_is_refused_before_anything_is_trained(tiny_base: Path, tmp_path: Path) -> None:
    scenario = tiny_scenario(tiny_base, clients=1, training={"round_deadline_s": 3.0})
    other = once(lambda m: isinstance(m, Hello), lambda m: replace(m, base="0" * 16))
    with pytest.raises(BaseExceptionGroup) as caught:
        run_tiny(scenario, tmp_path / "run", FaultyHub(other))
    assert any("0 of 1 clients said hello" in str(error) for error in caught.value.exceptions)
    assert not (tmp_path / "run").exists()  # nothing was trained, so nothing is left to read


def test_a_refusal_for_another_step_changes_nothing(tiny_base: Path, tmp_path: Path) -> None:
    scenario = tiny_scenario(tiny_base, clients=1)

    class Noisy(FaultyHub):
        def server(self, run: str) -> Any:
            channel = super().server(run)
            send = channel.send

            async def noisy(peer: str, message: Any) -> int:
                if isinstance(message, GradientDown) and message.step == 2:
                    await send(peer, StepRefused(1, "late", []))
                return await send(peer, message)

            channel.send = noisy  # type: ignore[method-assign]
            return channel

    summary = run_tiny(scenario, tmp_path / "run", Noisy(lambda sender, peer, message: message))
    assert summary["events"].get("stale_reply", 0) <= 1
    assert "refused_step" not in summary["events"]
    assert summary["steps"] == 12


@pytest.mark.slow
def test_a_reply_that_takes_longer_than_its_deadline_but_keeps_coming_is_waited_for(
    tiny_base: Path, tmp_path: Path
) -> None:
    class Slow(MemoryHub):
        """Lets a chunk of bulk go down every tenth of a second."""

        free_at = 0.0
        waited_s = 0.0

        def publish(self, topic: str, payload: bytes, retain: bool, acknowledge: Callable[[], None]) -> None:
            loop = asyncio.get_running_loop()
            if not topic.endswith("/down"):
                super().publish(topic, payload, retain, acknowledge)
                return
            self.free_at = max(loop.time(), self.free_at) + 0.1
            self.waited_s += 0.1
            loop.call_at(self.free_at, super().publish, topic, payload, retain, acknowledge)

    scenario = tiny_scenario(tiny_base, clients=1, data={"train": 4}, training={"reply_timeout_s": 0.5, "epochs": 1})
    hub = Slow(ChannelConfig(chunk_bytes=512))
    summary = run_tiny(scenario, tmp_path / "run", hub)
    assert summary["steps"] == 1
    assert hub.waited_s > 1.0
    assert not {"lost_step", "refused_step", "stale_reply"} & set(summary["events"])
