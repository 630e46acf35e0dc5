"""An index of topics: which of them fall under a filter, for a cost that is not that of all topics."""

from __future__ import annotations

from bisect import bisect_left, insort

_FEW = 16
"""New topics that are sorted in one by one; for more of them the list is sorted once."""


class TopicIndex:
    """A set of topics, sorted by their levels.

    All topics below a level stand together, so that what is below another level is skipped by a binary search. A tree
    would do the same for many times the memory where topics have many levels.
    """

    def __init__(self) -> None:
        self._keys: list[str] = []
        self._new: list[str] = []

    def add(self, topic: str) -> None:
        """Put in a topic that is not there."""
        self._new.append(_key(topic))

    def remove(self, topic: str) -> None:
        """Take out a topic that is there."""
        self._sort()
        del self._keys[bisect_left(self._keys, _key(topic))]

    def page(self, topic_filter: str, start: str, looks: int) -> tuple[list[str], str | None, int]:
        """The topics under a filter, which is valid, from `start` on, as far as this many looks at topics reach.

        Also where the next page starts, None where there is none, and how many looks were taken.
        """
        self._sort()
        keys, wanted = self._keys, topic_filter.split("/")
        at, stop = bisect_left(keys, _key(start)), len(keys)
        if wanted[0] not in ("+", "#"):
            at, stop = max(at, bisect_left(keys, wanted[0])), bisect_left(keys, _after(wanted[:1]))
        found: list[str] = []
        left = looks
        while at < stop and left:
            left -= 1
            ahead = _ahead(keys[at], wanted)
            if ahead is None:
                found.append(_topic(keys[at]))
            at = at + 1 if ahead is None else bisect_left(keys, ahead, at + 1)
        return found, _topic(keys[at]) if at < stop else None, looks - left

    def _sort(self) -> None:
        if len(self._new) > _FEW:
            self._keys += self._new
            self._keys.sort()
        else:
            for key in self._new:
                insort(self._keys, key)
        self._new.clear()


def _key(topic: str) -> str:
    """The topic with NUL for /, which no topic holds: what sorts such keys sorts topics by their levels."""
    return topic.replace("/", "\0")


def _topic(key: str) -> str:
    return key.replace("\0", "/")


def _ahead(key: str, wanted: list[str]) -> str | None:
    """None where the key has the wanted levels; else no key from this one to the one that is returned has them."""
    levels = key.split("\0", len(wanted))
    if wanted[0] in ("+", "#") and key.startswith("$"):
        return "%"  # the character after $
    for depth, level in enumerate(wanted):
        if level == "#":
            return None
        if depth == len(levels):
            return key
        if level not in ("+", levels[depth]):
            above = levels[:depth]
            return "\0".join([*above, level]) if levels[depth] < level else _after(above)
    return None if len(levels) == len(wanted) else _after(levels[:-1])


def _after(levels: list[str]) -> str:
    """What comes right after all that is at these levels or below them."""
    return "\0".join(levels) + "\1"
