"""Topic names and topic filters (MQTT 5.0, 4.7): what is valid, what matches what, and a tree to look filters up in."""

from __future__ import annotations

from typing import Generic, TypeVar

from broker.errors import ProtocolError
from broker.reasons import Reason

T = TypeVar("T")

SHARE = "$share"
"""The first level of a shared subscription (MQTT 5.0, 4.8.2)."""

SYS = "$SYS/"
"""How the broker's own topics begin; no wildcard matches that."""

MAX_LEVELS = 128
"""Levels of a topic filter; without a limit, one filter of 64 KiB of slashes would cost megabytes of tree."""


def check_topic(topic: str) -> None:
    """Raise ProtocolError unless a message can be published under this name."""
    if not topic or "+" in topic or "#" in topic:
        raise ProtocolError(f"topic {topic!r} is empty or holds a wildcard", Reason.TOPIC_NAME_INVALID)


def is_filter(topic_filter: str) -> bool:
    """Whether a client can subscribe to this.

    `+` and `#` have to be levels of their own and `#` the last one, with at most MAX_LEVELS; a shared subscription
    needs a group name without wildcards, and a filter.
    """
    levels = topic_filter.split("/")
    if not topic_filter or "#" in levels[:-1] or len(levels) > MAX_LEVELS:
        return False
    if levels[0] == SHARE and (len(levels) < 3 or levels[1] in ("", "+") or levels[2:] == [""]):
        return False
    return all(level in ("+", "#") or not ("+" in level or "#" in level) for level in levels)


def is_shared(topic_filter: str) -> bool:
    """Whether the filter, which is valid, names a shared subscription."""
    return topic_filter.startswith(SHARE + "/")


def unshared(topic_filter: str) -> str:
    """The filter that topics are matched with: the one after `$share/GROUP/`, or the filter itself."""
    return topic_filter.split("/", 2)[2] if is_shared(topic_filter) else topic_filter


class _Node(Generic[T]):
    """One level of the tree: the filters that end here, and the levels below."""

    __slots__ = ("children", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.values: dict[T, None] = {}  # a set that keeps its order


class FilterTree(Generic[T]):
    """Values under topic filters; a look-up visits the levels of the topic, not the filters."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, topic_filter: str, value: T) -> None:
        """Put a value under a filter."""
        node = self._root
        for level in topic_filter.split("/"):
            node = node.children.setdefault(level, _Node())
        node.values[value] = None

    def remove(self, topic_filter: str, value: T) -> None:
        """Take a value away that `add` put there, with the levels that hold nothing any more."""
        path = [self._root]
        levels = topic_filter.split("/")
        for level in levels:
            path.append(path[-1].children[level])
        del path[-1].values[value]
        for level, node, parent in zip(reversed(levels), reversed(path[1:]), reversed(path[:-1]), strict=True):
            if node.values or node.children:
                break
            del parent.children[level]

    def match(self, topic: str) -> list[T]:
        """The values of every filter that the topic falls under."""
        found: list[T] = []
        levels = topic.split("/")
        nodes = [self._root]
        for depth, level in enumerate(levels):
            below: list[_Node[T]] = []
            wild = depth > 0 or not level.startswith("$")
            for node in nodes:
                children = node.children
                if wild and "#" in children:
                    found.extend(children["#"].values)
                if wild and "+" in children:
                    below.append(children["+"])
                if level in children and level not in ("+", "#"):
                    below.append(children[level])
            nodes = below
        for node in nodes:
            found.extend(node.values)
            # `a/#` also matches its parent, `a`.
            if "#" in node.children:
                found.extend(node.children["#"].values)
        return found
