"""What every gate keeps to, and what tells them apart."""

from __future__ import annotations

import numpy as np
import pytest

from splitcom.config import StreamConfig
from splitcom.gate import GATES
from splitcom.stream import StreamEncoder


def _encoder(gate: str, memory: str = "sketch", threshold: float = 0.9) -> StreamEncoder:
    config = StreamConfig(gate=gate, threshold=threshold, sender_memory=memory, codec="fp32")  # type: ignore[arg-type]
    return StreamEncoder("activation_up", config, channels=4, seed=0)


@pytest.mark.parametrize("name", sorted(GATES))
def test_a_first_or_reshaped_sample_is_never_skipped(name: str) -> None:
    encoder = _encoder(name, threshold=-1)
    for step, tokens in enumerate((3, 2, 5)):
        assert encoder.encode(step, [7], [np.ones((tokens, 4), np.float32)]).stats.kinds["keyframe"].frames == 1
        encoder.accept(step)


@pytest.mark.parametrize("name", sorted(GATES))
def test_only_gates_that_remember_keep_references(name: str) -> None:
    encoder = _encoder(name)
    encoder.encode(0, [7], [np.ones((3, 4), np.float32)])
    assert (encoder.memory_bytes > 0) is GATES[name].remembers


def test_a_gate_skips_from_the_threshold_on() -> None:
    reference = np.eye(1, 4, dtype=np.float32)
    for current, skips in ((0.75, True), (0.5, True), (0.25, False)):
        encoder = _encoder("relative_l2", "full", threshold=0.5)
        encoder.encode(0, [1], [reference])
        encoder.accept(0)
        stats = encoder.encode(1, [1], [current * reference]).stats
        assert stats.similarities == (current,)
        assert stats.kinds["skip"].frames == skips


@pytest.mark.parametrize("memory", ["sketch", "full"])
@pytest.mark.parametrize(("gate", "skips"), [("cosine", True), ("relative_l2", False)])
def test_relative_l2_sees_a_change_of_norm_and_cosine_does_not(gate: str, skips: bool, memory: str) -> None:
    encoder = _encoder(gate, memory)
    tensor = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    encoder.encode(0, [1], [tensor])
    encoder.accept(0)
    assert encoder.encode(1, [1], [1.25 * tensor]).stats.kinds["skip"].frames == skips
    encoder.accept(1)
    assert encoder.encode(2, [1], [1.25 * tensor]).stats.kinds["skip"].frames == 1


@pytest.mark.parametrize("memory", ["sketch", "full"])
def test_cosine_sends_what_has_turned_and_skips_what_has_not(memory: str) -> None:
    encoder = _encoder("cosine", memory)
    draw = np.random.default_rng(0)
    tensor = draw.standard_normal((6, 4)).astype(np.float32)
    turned = draw.standard_normal((6, 4)).astype(np.float32)
    assert encoder.encode(0, [1], [tensor]).stats.similarities == ()
    encoder.accept(0)
    same = encoder.encode(1, [1], [2 * tensor]).stats
    assert same.kinds["skip"].frames == 1
    assert same.similarities == pytest.approx((1,))
    assert encoder.encode(2, [1], [turned]).stats.kinds["keyframe"].frames == 1


def test_full_memory_compares_the_tensors_themselves() -> None:
    encoder = _encoder("cosine", "full")
    draw = np.random.default_rng(0)
    x, y = (draw.standard_normal((6, 4)).astype(np.float32) for _ in range(2))
    encoder.encode(0, [1], [x])
    encoder.accept(0)
    (similarity,) = encoder.encode(1, [1], [y]).stats.similarities
    assert similarity == pytest.approx(float((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y)), rel=1e-5)


def test_once_sends_a_sample_one_time_however_it_changes() -> None:
    encoder = _encoder("once")
    kinds = []
    for step in range(3):
        kinds.append(encoder.encode(step, [1], [np.full((3, 4), step + 1, np.float32)]).stats.kinds["keyframe"].frames)
        encoder.accept(step)
    assert kinds == [1, 0, 0]
