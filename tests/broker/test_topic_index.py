"""The index of topics: it finds what a walk over all of them finds, and looks at few of them for that."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker import topic_index
from broker.topic_index import TopicIndex
from tests.broker.test_packets import naive_match

LEVELS = ["a", "b", "ab", "", "$x", "!", "\x01", "é"]
TOPIC = st.lists(st.sampled_from(LEVELS), min_size=1, max_size=4).map("/".join).filter(bool)
FILTER = st.builds(
    lambda levels, tail: "/".join(levels + tail),
    st.lists(st.sampled_from([*LEVELS, "+", "+"]), max_size=4),
    st.sampled_from([[], ["#"]]),
).filter(bool)


def under(index: TopicIndex, topic_filter: str, looks: int = 1 << 20) -> list[str]:
    """All topics under the filter, page by page."""
    found: list[str] = []
    start: str | None = ""
    while start is not None:
        page, start, taken = index.page(topic_filter, start, looks)
        assert taken <= looks
        found += page
    return found


def indexed(topics: list[str]) -> TopicIndex:
    index = TopicIndex()
    for topic in topics:
        index.add(topic)
    return index


@settings(max_examples=100, deadline=None)
@given(
    st.lists(TOPIC, unique=True, max_size=40), st.lists(TOPIC, unique=True, max_size=10), st.lists(FILTER, max_size=6)
)
def test_it_finds_what_a_walk_over_all_topics_finds(first: list[str], changed: list[str], filters: list[str]) -> None:
    index, there = indexed(first), dict.fromkeys(first)
    for topic in changed:  # go, or come as the last
        if topic in there:
            del there[topic]
            index.remove(topic)
        else:
            there[topic] = None
            index.add(topic)
        for topic_filter in filters:
            expected = sorted(topic for topic in there if naive_match(topic_filter, topic))
            assert sorted(under(index, topic_filter)) == sorted(under(index, topic_filter, 1)) == expected
    for topic in list(there):
        index.remove(topic)
    assert under(index, "#") == under(index, "$x/#") == []


def test_topics_of_more_levels_than_filters_have_are_found() -> None:
    deep = "/".join("a" * 60_000)
    index = indexed(["a", deep, "b/" + deep])
    assert under(index, "a/#") == ["a", deep]
    assert under(index, "+/a/#") == [deep, "b/" + deep]
    assert under(index, "/".join("+" * 128)) == []


@pytest.mark.parametrize(
    ("topic_filter", "found"),
    [
        ("sc/1/run7/agent3/state", 1),
        ("sc/1/run7/+/state", 100),
        ("sc/1/run7/#", 200),
        ("sc/1/+/agent3/state", 50),
        ("nothing/#", 0),
        ("+/2/#", 0),
    ],
)
def test_a_filter_looks_at_little_besides_what_it_finds(
    topic_filter: str, found: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = indexed(
        [
            f"sc/1/run{run}/agent{agent}/{last}"
            for run in range(50)
            for agent in range(100)
            for last in ("info", "state")
        ]
    )
    looked, ahead = [], topic_index._ahead

    def counted(key: str, wanted: list[str]) -> str | None:
        looked.append(key)
        return ahead(key, wanted)

    monkeypatch.setattr(topic_index, "_ahead", counted)
    assert len(under(index, topic_filter)) == found
    assert len(looked) <= 4 * found + 2  # of 10,000: one that leads to the next for every level
