"""Access control lists: what a file means, and what a client may do by it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.acl import DEVICES, AccessList, covers
from broker.errors import SettingsError
from broker.topic_filter import FilterTree


def may(text: str, user: str | None = "alice", client_id: str = "c") -> tuple[set[str], set[str]]:
    """What of a few topics can be read and written."""
    permissions = AccessList(text).permissions(user, client_id)
    topics = ("a", "a/b", "a/b/c", "b", "u/alice", "u/bob", "c/c", "$SYS/x")
    readable = {topic for topic in topics if permissions.may_receive(topic)}
    return readable, {topic for topic in topics if permissions.may_publish(topic)}


def test_nothing_is_allowed_that_no_line_allows() -> None:
    assert may("") == (set(), set())
    assert may("# topic readwrite #\n\n") == (set(), set())


@pytest.mark.parametrize(
    ("line", "readable", "writable"),
    [
        ("topic read a/#", {"a", "a/b", "a/b/c"}, set()),
        ("topic write a/+", set(), {"a/b"}),
        ("topic readwrite a", {"a"}, {"a"}),
        ("topic a/b", {"a/b"}, {"a/b"}),
        ("  topic   read   b  ", {"b"}, set()),
        ("topic read $SYS/#", {"$SYS/x"}, set()),
        ("topic read #", {"a", "a/b", "a/b/c", "b", "u/alice", "u/bob", "c/c"}, set()),
    ],
)
def test_a_line_of_a_user_is_for_the_user(line: str, readable: set[str], writable: set[str]) -> None:
    assert may(f"user alice\n{line}") == (readable, writable)
    assert may(f"user bob\n{line}") == (set(), set())


def test_lines_before_any_user_are_for_clients_without_a_name() -> None:
    text = "topic read a\nuser alice\ntopic read b"
    assert may(text, user=None)[0] == {"a"}
    assert may(text)[0] == {"b"}


def test_a_user_may_have_several_parts() -> None:
    assert may("user alice\ntopic read a\nuser bob\ntopic read a/b\nuser alice\ntopic read b")[0] == {"a", "b"}


def test_a_denial_goes_before_what_allows_wherever_it_stands() -> None:
    assert may("user alice\ntopic read a/#\ntopic deny a/b")[0] == {"a", "a/b/c"}
    assert may("user alice\ntopic deny a/b\ntopic read a/#")[0] == {"a", "a/b/c"}


def test_a_users_own_lines_go_before_the_patterns() -> None:
    assert may("pattern deny a\nuser alice\ntopic read a")[0] == {"a"}
    assert may("pattern read a\nuser alice\ntopic deny a")[0] == set()


def test_patterns_are_filled_for_each_client() -> None:
    text = "user bob\npattern readwrite u/%u\npattern read c/%c"
    assert may(text) == ({"u/alice", "c/c"}, {"u/alice"})
    assert may(text, user="bob")[0] == {"u/bob", "c/c"}
    assert may(text, user=None)[0] == {"c/c"}


@pytest.mark.parametrize("name", ["+", "#", "a/b", "", "x+"])
def test_a_name_that_would_match_others_fills_no_pattern(name: str) -> None:
    permissions = AccessList("pattern read u/%u/#\npattern read c/%c/#").permissions(name, name)
    for topic in ("u/alice", "u/bob/x", "c/c", "u/a/b", "u//x"):
        assert not permissions.may_receive(topic)


def test_a_subscription_needs_one_line_that_covers_it() -> None:
    permissions = AccessList("user a\ntopic read x/#\ntopic read y/+/z\ntopic write w/#").permissions("a", "c")
    for good in ("x", "x/#", "x/+", "x/+/y/#", "y/+/z", "y/1/z"):
        assert permissions.may_subscribe(good), good
    for bad in ("#", "+", "+/#", "y/#", "y/+/+", "y/+", "w/1", "w/#", "z", "$SYS/#"):
        assert not permissions.may_subscribe(bad), bad
    assert not permissions.checks_deliveries


def test_a_subscription_may_be_wider_than_what_is_denied_of_it() -> None:
    permissions = AccessList("user a\ntopic read x/#\ntopic deny x/secret/#").permissions("a", "c")
    assert permissions.may_subscribe("x/#")
    assert permissions.checks_deliveries
    assert permissions.may_receive("x/open")
    assert not permissions.may_receive("x/secret/1")
    assert not permissions.may_subscribe("x/secret/+")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("topics read a", "is no rule"),
        ("topic", "is no topic filter"),
        ("user", "is no rule"),
        ("topic reads a", "access 'reads' is unknown; valid: read, write, readwrite, deny"),
        ("topic read a/#/b", "'a/#/b' is no topic filter"),
        ("pattern read a/x%u", "stand for a whole level"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(line: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "acl"
    path.write_text(f"user alice\n{line}\n")
    with pytest.raises(SettingsError, match=f"acl: {path}, line 2: ") as caught:
        AccessList.load(path)
    assert problem in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"acl: .*missing: No such file"):
        AccessList.load(tmp_path / "missing")


def test_a_device_reaches_its_own_topics_and_the_servers_state() -> None:
    device = AccessList(DEVICES).permissions("agent0", "sc-run-agent0")
    for topic in ("sc/1/run/agent0/up", "sc/1/other/agent0/state"):
        assert device.may_publish(topic)
    for topic_filter in ("sc/1/run/agent0/down", "sc/1/run/agent0/cmd", "sc/1/run/server/state"):
        assert device.may_subscribe(topic_filter)
    for topic in ("sc/1/run/agent1/up", "sc/1/run/server/state", "sc/2/run/agent0/up", "other"):
        assert not device.may_publish(topic)
    for topic_filter in ("sc/1/run/agent1/down", "sc/1/run/+/up", "sc/1/run/#", "#"):
        assert not device.may_subscribe(topic_filter)


def test_the_server_reaches_the_topics_of_all_runs() -> None:
    server = AccessList(DEVICES).permissions("server", "sc-run-server")
    assert server.may_publish("sc/1/run/agent0/down")
    for topic_filter in ("sc/+/run/+/info", "sc/1/run/+/up"):
        assert server.may_subscribe(topic_filter)
    assert not server.may_subscribe("#")


LEVELS = st.sampled_from(["a", "b", "+", "$s"])
FILTERS = st.tuples(st.lists(LEVELS, min_size=1, max_size=3), st.sampled_from([[], ["#"]])).map(lambda p: p[0] + p[1])
TOPICS = ["/".join(levels) for size in (1, 2, 3, 4) for levels in itertools.product(["a", "b", "c", "$s"], repeat=size)]


@given(FILTERS | st.just(["#"]), FILTERS | st.just(["#"]))
def test_a_filter_that_covers_another_matches_all_of_its_topics(outer: list[str], inner: list[str]) -> None:
    def matched(levels: list[str]) -> set[str]:
        tree: FilterTree[int] = FilterTree()
        tree.add("/".join(levels), 1)
        return {topic for topic in TOPICS if tree.match(topic)}

    contained = matched(inner) <= matched(outer)
    if covers(outer, inner):
        assert contained
    elif contained and matched(inner):
        # Refused though it could be granted: `#` where `+/#` is allowed, and what differs below four levels.
        assert inner[-1] == "#"


@given(FILTERS | st.just(["#"]), st.sampled_from(TOPICS))
def test_a_topic_is_covered_exactly_by_what_matches_it(outer: list[str], topic: str) -> None:
    tree: FilterTree[int] = FilterTree()
    tree.add("/".join(outer), 1)
    assert covers(outer, topic.split("/")) == bool(tree.match(topic))
