"""Access control lists in the syntax of mosquitto's `acl_file`: which user may publish and read what.

    topic read news/#                 # before any `user` line: for clients without a user name
    user alice
    topic readwrite lab/#
    topic deny lab/secret
    pattern readwrite home/%u/#       # for every user: %u is the user's name, %c the client id

What no line allows is forbidden. A user's own lines come first and the patterns second; within each of the two, a line
that denies comes before all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntFlag
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from broker.errors import SettingsError
from broker.topic_filter import is_filter


class Access(IntFlag):
    """What a rule is about; DENY takes away, and wins."""

    DENY = 0
    READ = 1
    WRITE = 2


ACCESSES = {
    "read": Access.READ,
    "write": Access.WRITE,
    "readwrite": Access.READ | Access.WRITE,
    "deny": Access.DENY,
}
PLACEHOLDERS = ("%u", "%c")

DEVICES = """\
# Each client reaches the topics of its own name in every run and reads the server's state; the server reaches all.
pattern readwrite sc/1/+/%u/#
pattern read sc/1/+/server/state
user server
topic readwrite sc/#
"""
"""The policy `devices` for the topics of docs/wire-format.md."""


class Rule(NamedTuple):
    """One line: an access to whatever falls under a filter, given by its levels."""

    access: Access
    levels: tuple[str, ...]


class Permissions:
    """What one client may do, by its rules: its user's own before the patterns. Implements `Grants`."""

    def __init__(self, own: Sequence[Rule], patterns: Sequence[Rule]) -> None:
        self._stages = tuple(tuple(sorted(rules)) for rules in (own, patterns))  # DENY first
        # A subscription may be wider than what is denied of it, so that only the delivery shows it.
        self.checks_deliveries = any(rule.access == Access.DENY for rule in chain(own, patterns))

    def may_publish(self, topic: str) -> bool:
        """Whether a line allows to write the topic."""
        return self._allows(topic, Access.WRITE)

    def may_subscribe(self, topic_filter: str) -> bool:
        """Whether one line alone allows to read everything that the filter can match."""
        return self._allows(topic_filter, Access.READ)

    def may_receive(self, topic: str) -> bool:
        """Whether a line allows to read the topic."""
        return self._allows(topic, Access.READ)

    def _allows(self, asked: str, access: Access) -> bool:
        levels = tuple(asked.split("/"))
        for rules in self._stages:
            for rule in rules:
                if (rule.access == Access.DENY or rule.access & access) and covers(rule.levels, levels):
                    return rule.access != Access.DENY
        return False


class AccessList:
    """The rules of all users."""

    def __init__(self, text: str = "", source: str = "acl") -> None:
        self._own: dict[str | None, list[Rule]] = {}
        self._patterns: list[Rule] = []
        self.add(text, source)

    @classmethod
    def load(cls, path: str | Path) -> AccessList:
        """Read a file; SettingsError names the file, the line and what is wrong there."""
        return cls(read_acl(path), f"acl: {path}")

    def add(self, text: str, source: str) -> None:
        """Add the lines of a text; `source` is what an error calls it. Raises SettingsError."""
        user: str | None = None
        for number, line in enumerate(text.splitlines(), start=1):
            words = line.split(maxsplit=1)
            if not words or line.startswith("#"):
                continue
            try:
                keyword, rest = words if len(words) == 2 else (line.strip(), "")
                if keyword == "user" and rest:
                    user = rest.strip()
                elif keyword == "topic":
                    self._own.setdefault(user, []).append(_rule(rest, pattern=False))
                elif keyword == "pattern":
                    self._patterns.append(_rule(rest, pattern=True))
                else:
                    raise ValueError(f"{line.strip()!r:.80} is no rule; valid: user NAME, topic ..., pattern ...")
            except ValueError as error:
                raise SettingsError(f"{source}, line {number}: {error}") from None

    def uses(self, placeholder: str) -> bool:
        """Whether a pattern holds `%u` or `%c`."""
        return any(placeholder in rule.levels for rule in self._patterns)

    def permissions(self, user: str | None, client_id: str) -> Permissions:
        """What a client may do; `user` is None for one without a name."""
        names = {"%u": user, "%c": client_id}
        return Permissions(self._own.get(user, ()), [made for rule in self._patterns if (made := _fill(rule, names))])


def read_acl(path: str | Path) -> str:
    """The text of a file; SettingsError names the file where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"acl: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"acl: {path}: no text in UTF-8") from None


def covers(outer: Sequence[str], inner: Sequence[str]) -> bool:
    """Whether every topic under the filter `inner` falls under the filter `outer`; both are given by their levels.

    A topic is a filter for itself alone, so this also tells whether a topic falls under a filter.
    """
    if outer[0] in ("+", "#") and inner[0].startswith("$"):
        return False
    for depth, level in enumerate(outer):
        if level == "#":
            return True
        if depth == len(inner) or inner[depth] == "#":
            return False
        if level not in ("+", inner[depth]):
            return False
    return len(outer) == len(inner)


def holds_wildcard(name: str) -> bool:
    """Whether a name would be more than one level of a filter, or one that matches others."""
    return any(character in name for character in "+#/")


def _rule(text: str, pattern: bool) -> Rule:
    words = text.split(maxsplit=1)
    if len(words) == 2:
        word, topic_filter = words
        if word not in ACCESSES:
            raise ValueError(f"access {word!r:.80} is unknown; valid: {', '.join(ACCESSES)}")
        access = ACCESSES[word]
    else:
        access, topic_filter = ACCESSES["readwrite"], text
    topic_filter = topic_filter.strip()
    if not is_filter(topic_filter):
        raise ValueError(f"{topic_filter!r:.80} is no topic filter")
    levels = tuple(topic_filter.split("/"))
    if pattern and any(mark in level and mark != level for level in levels for mark in PLACEHOLDERS):
        raise ValueError(f"{topic_filter!r:.80}: %u and %c stand for a whole level of a topic")
    return Rule(access, levels)


def _fill(rule: Rule, names: dict[str, str | None]) -> Rule | None:
    """The rule with the client's names in it; None where it lacks one, or has one that would match more than itself."""
    for level in rule.levels:
        if level in names and (not names[level] or holds_wildcard(names[level] or "")):
            return None
    return Rule(rule.access, tuple(names.get(level) or level for level in rule.levels))
