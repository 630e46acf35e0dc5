"""The bounded inbox."""

from __future__ import annotations

import asyncio
import functools

from broker.inbox import MAX_HELD, Inbox
from broker.messages import Credit


def test_the_inbox_acknowledges_in_order_and_only_what_has_room() -> None:
    async def main() -> None:
        inbox, acknowledged = Inbox(2), list[int]()
        for number in range(5):
            item = ("a", Credit(number, 0)) if number != 3 else None
            inbox.put(item, lambda number=number: acknowledged.append(number))  # type: ignore[misc]
        assert acknowledged == [0, 1]
        assert await inbox.get() == ("a", Credit(0, 0))
        assert acknowledged == [0, 1, 2]
        assert await inbox.get() == ("a", Credit(1, 0))
        assert acknowledged == [0, 1, 2, 3, 4]

    asyncio.run(main())


def test_only_what_needs_no_acknowledgement_is_ever_lost() -> None:
    async def main() -> None:
        inbox, acknowledged = Inbox(1), list[int]()
        for number in range(MAX_HELD + 9):
            inbox.put(("a", Credit(number, 1)), functools.partial(acknowledged.append, number))
        for number in range(3):
            inbox.put(("a", Credit(number, 2)), None)
        assert inbox.lost == 3
        for number in range(MAX_HELD + 9):
            assert await inbox.get() == ("a", Credit(number, 1))
        assert acknowledged == list(range(MAX_HELD + 9))

    asyncio.run(main())
