"""Loss: its text, its long-run share and the length of its bursts, from fixed seeds.

The bounds of the statistical tests are four standard deviations of what they hold, so that a right model passes with
nearly every seed; a model that is off by a tenth does not.
"""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.errors import SettingsError
from testbed.links import loss
from testbed.links.loss import GilbertElliott, independent

DRAWS = 100_000
SHARES = st.integers(0, 10**8).map(lambda millionths: millionths / 10**8)


def drawn(model: GilbertElliott, count: int = DRAWS, seed: int = 1) -> list[bool]:
    draw = model.draws(random.Random(seed))
    return [draw() for _ in range(count)]


def long_run_bound(model: GilbertElliott, count: int) -> float:
    """Four standard deviations of the share lost: that of independent draws, widened by the memory of the states."""
    variance = model.mean * (1 - model.mean) / count
    return 4 * math.sqrt(variance * (1 + model.memory) / (1 - model.memory))


def close(model: GilbertElliott, other: GilbertElliott) -> bool:
    return (model.p, model.r, model.bad, model.good) == pytest.approx((other.p, other.r, other.bad, other.good))


def test_a_share_is_independent_loss() -> None:
    assert loss.parse("loss", "1%") == independent(0.01)
    assert loss.parse("loss", "0%") == loss.NONE
    assert loss.parse("loss", "100%") == independent(1.0)
    assert (independent(0.25).mean, independent(0.25).memory) == (0.25, 0)


def test_bursts_are_written_as_gemodel() -> None:
    assert close(loss.parse("loss", "gemodel:0.25%:25%"), GilbertElliott(0.0025, 0.25, 1, 0))
    assert close(loss.parse("loss", "gemodel:1%:20%:80%"), GilbertElliott(0.01, 0.2, 0.8, 0))
    assert close(loss.parse("loss", " GEmodel:1%:20%:80%:0.5%"), GilbertElliott(0.01, 0.2, 0.8, 0.005))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "0.01",
        "1ms",
        "-1%",
        "101%",
        "nan%",
        "random:1%",
        "gemodel",
        "gemodel:",
        "gemodel:1%",
        "gemodel:1%:",
        "gemodel:1%:101%",
        "gemodel:101%:1%",
        "gemodel:1%:1%:200%",
        "gemodel:1%:1%:1%:200%",
        "gemodel:1%:-1%",
        "gemodel:0.01:0.25",
        "gemodel:1%:1%:1%:1%:1%",
    ],
)
def test_what_is_no_loss_is_named_by_its_key_and_answered_with_what_is(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^up\.loss: '.*; valid: .*%") as caught:
        loss.parse("up.loss", text)
    assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=60)
@given(SHARES.map(independent) | st.builds(GilbertElliott, SHARES, SHARES, SHARES, SHARES))
def test_the_text_of_a_loss_reads_back(model: GilbertElliott) -> None:
    assert close(loss.parse("loss", loss.text(model)), model)


def test_independent_loss_is_written_as_a_share() -> None:
    assert loss.text(independent(0.01)) == "1%"
    assert loss.text(GilbertElliott(0.01, 0.2)) == "gemodel:1%:20%:100%:0%"


@settings(deadline=None, max_examples=60)
@given(
    st.text("0123456789.%:-gemodl ", max_size=16) | st.lists(st.sampled_from(["gemodel", ":", "1%", "٣%"])).map("".join)
)
def test_any_text_is_a_loss_or_is_refused_by_its_key(text: str) -> None:
    try:
        assert 0 <= loss.parse("up.loss", text).mean <= 1
    except SettingsError as error:
        assert str(error).startswith("up.loss: ")
        assert "; valid: " in str(error)


@pytest.mark.parametrize(
    ("model", "mean"),
    [
        (GilbertElliott(0.01, 0.24), 0.04),
        (GilbertElliott(0.01, 0.24, 0.5), 0.02),
        (GilbertElliott(0.01, 0.24, 0.5, 0.1), 0.02 + 0.096),
        (GilbertElliott(0.0, 0.5), 0),
        (GilbertElliott(0.5, 0.0), 1),
        (GilbertElliott(0.0, 0.0, 1.0, 0.125), 0.125),
    ],
)
def test_the_mean_weighs_the_states_by_how_long_they_last(model: GilbertElliott, mean: float) -> None:
    assert model.mean == pytest.approx(mean)


@pytest.mark.parametrize(
    "model",
    [
        independent(0.01),
        independent(0.3),
        GilbertElliott(0.01, 0.25),
        GilbertElliott(0.05, 0.2, 0.8, 0.01),
        GilbertElliott(0.3, 0.9),
    ],
)
def test_the_share_lost_in_the_long_run_is_the_mean(model: GilbertElliott) -> None:
    assert sum(drawn(model)) / DRAWS == pytest.approx(model.mean, abs=long_run_bound(model, DRAWS))


@pytest.mark.parametrize("r", [0.1, 0.25, 0.5])
def test_a_burst_is_as_long_as_the_bad_state_lasts(r: float) -> None:
    """The length of a burst is geometric: its mean is 1 / r and its deviation sqrt(1 - r) / r, over all bursts."""
    lost = drawn(GilbertElliott(0.01, r))
    bursts = [len(list(run)) for is_lost, run in itertools.groupby(lost) if is_lost]
    bound = 4 * math.sqrt((1 - r) / len(bursts)) / r
    assert bound < 0.15 / r
    assert sum(bursts) / len(bursts) == pytest.approx(1 / r, abs=bound)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_independent_loss_has_no_memory(share: float) -> None:
    """After a loss the next packet is lost as often as any: DRAWS * share of them, each of the variance of one."""
    lost = drawn(independent(share))
    after = [later for earlier, later in itertools.pairwise(lost) if earlier]
    bound = 4 * math.sqrt(share * (1 - share) / len(after))
    assert sum(after) / len(after) == pytest.approx(share, abs=bound)


def test_bursts_have_a_memory() -> None:
    """After a loss the next packet is lost unless the bad state ends: 1 - r of about DRAWS * mean."""
    lost = drawn(GilbertElliott(0.01, 0.25))
    after = [later for earlier, later in itertools.pairwise(lost) if earlier]
    assert sum(after) / len(after) == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / len(after)))


def test_the_first_packet_is_lost_as_often_as_any() -> None:
    """5000 models in their long run from the first packet on, each of the variance of one draw."""
    model = GilbertElliott(0.01, 0.03)
    firsts = [model.draws(random.Random(seed))() for seed in range(5000)]
    assert sum(firsts) / 5000 == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 5000))


def test_no_loss_loses_nothing_and_all_loses_all() -> None:
    assert not any(drawn(loss.NONE, 1000))
    assert all(drawn(independent(1.0), 1000))
    assert not any(drawn(GilbertElliott(0.0, 0.5), 1000))


def test_the_same_seed_loses_the_same_packets() -> None:
    model = GilbertElliott(0.1, 0.3, 0.9, 0.05)
    assert drawn(model, 500, seed=3) == drawn(model, 500, seed=3)
    assert drawn(model, 500, seed=3) != drawn(model, 500, seed=4)
