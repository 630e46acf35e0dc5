"""The links of a scenario: what is read, and what is refused by its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.errors import SettingsError
from broker.settings import build
from testbed.links.links_config import LinksConfig
from testbed.scenario import read

NAMES = ["agent0", "agent1"]


def links(**table: object) -> LinksConfig:
    return build(LinksConfig, table, "links.")


def test_clients_differ_from_the_profile_of_all() -> None:
    config = links(profile="lte", clients=["agent1: dsl loss=1%"])
    profiles = config.profiles(NAMES)
    assert profiles["agent0"].up.rate == "12mbit"
    assert (profiles["agent1"].up.rate, profiles["agent1"].up.loss) == ("384kbit", "1%")
    assert config.needs(NAMES) == {"rate", "delay", "loss"}


def test_the_timeline_is_in_order_whatever_it_was_written_in() -> None:
    config = links(timeline=["90s all: lte", "1.5s agent0: up=1mbit"])
    assert [(change.at_s, change.client) for change in config.changes()] == [(1.5, "agent0"), (90, "all")]
    assert config.any


def test_what_comes_later_counts_among_the_needs() -> None:
    assert links(profile="up=5mbit", timeline=["1s all: loss=1%"]).needs(NAMES) == {"rate", "loss"}


def test_links_that_are_not_shaped_need_nothing() -> None:
    assert not links().any
    assert not links(profile="unlimited", clients=["agent0: unlimited"]).any


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"profile": "up=5mbits"}, "links.profile: up: '5mbits'"),
        ({"profile": "nowhere"}, "links.profile: link profile 'nowhere' is unknown"),
        ({"clients": ["agent0 lte"]}, "links.clients: 'agent0 lte'"),
        ({"clients": ["agent0: lte", "agent0: dsl"]}, "each client once"),
        ({"clients": ["agent0: loss=200%"]}, "links.clients: up.loss"),
        ({"timeline": ["agent0: lte"]}, "links.timeline: 'agent0: lte'"),
        ({"timeline": ["5 agent0: lte"]}, "links.timeline: '5'"),
        ({"timeline": ["5s agent0: lte up=-1mbit"]}, "links.timeline: up: '-1mbit'"),
        ({"calibrate_s": -1}, "links.calibrate_s: -1"),
        ({"backend": "wires"}, "links.backend: 'wires' is unknown; valid: auto, none, netns, tun, proxy"),
    ],
)
def test_a_mistake_is_named_by_its_key(table: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        links(**table)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({"links": {"clients": ["agent7: lte"]}}, "links.clients: 'agent7' is no client of the run"),
        ({"links": {"timeline": ["1s agent7: lte"]}}, "links.timeline: 'agent7' is no client of the run"),
        ({"links": {"profile": "lte"}, "transport": "memory"}, "valid with memory: links.backend = none"),
        ({"links": {"profile": "lte"}, "broker": "mqtt://example.test:1883"}, "starts the broker itself"),
    ],
)
def test_a_scenario_refuses_links_that_it_cannot_have(layer: dict[str, object], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(["splitcom"], layer)
    assert said in str(caught.value)


def test_without_emulation_profiles_are_taken_no_notice_of() -> None:
    assert not read(["splitcom"], {"links": {"profile": "lte", "backend": "none"}, "transport": "memory"}).links.any


def test_congestion_control_reaches_both_ends_of_a_link() -> None:
    scenario = read(["splitcom"], {"links": {"profile": "up=5mbit", "congestion": "reno"}})
    assert scenario.agent(0, "", Path()).transport.congestion == "reno"
    assert scenario.server("", Path()).transport.congestion == "reno"
    assert read(["splitcom"]).server("", Path()).transport.congestion == ""  # no link, no say in it
