"""What is said in the log about dropped messages: little, since they come by the thousand."""

from __future__ import annotations

import asyncio

from broker.log import told

EVERY_S = 1.0


class DropLog:
    """Tells of dropped messages at most once in EVERY_S for each client, with how many they were."""

    def __init__(self) -> None:
        self._dropped: dict[str, int] = {}

    def note(self, client_id: str) -> None:
        """A message for this client was dropped."""
        if not self._dropped:
            asyncio.get_running_loop().call_later(EVERY_S, self._tell)
        self._dropped[client_id] = self._dropped.get(client_id, 0) + 1

    def _tell(self) -> None:
        dropped, self._dropped = self._dropped, {}
        for client_id, messages in dropped.items():
            told("dropped", client=client_id, messages=messages)
