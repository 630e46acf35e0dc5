"""Every normative statement of MQTT 3.1.1 and MQTT 5.0 in our own words, and what becomes of it here.

The numbers are those of the two OASIS standards (MQTT Version 3.1.1, 29 October 2014; MQTT Version 5.0, 7 March 2019).
"""

from __future__ import annotations

from typing import NamedTuple

from tests.conformance import v3_1_1, v5

TESTED = "tested"
CLIENT = "client-side"
UNSEEN = "not observable"
INAPPLICABLE = "not applicable"
STATUSES = (TESTED, CLIENT, UNSEEN, INAPPLICABLE)


class Statement(NamedTuple):
    """One statement; `reason` says why it is not tested."""

    id: str
    says: str
    status: str
    reason: str


def _of(version: str, rows: list[tuple[str, ...]]) -> list[Statement]:
    return [Statement(f"{version}:{number}", says, *(rest or (TESTED, ""))) for number, says, *rest in rows]


STATEMENTS = {s.id: s for s in (*_of("3.1.1", v3_1_1.ROWS), *_of("5", v5.ROWS))}
"""By id, in the order of the standards."""
