"""The embedded broker in a thread with an event loop of its own, for programs that have none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TypeVar

from broker.authority import Authority
from broker.broker_config import BrokerConfig
from broker.listener import Listener
from broker.server import Broker

T = TypeVar("T")


class BrokerThread:
    """Runs a broker from entering to leaving.

        with BrokerThread(BrokerConfig(port=0)) as (host, port):
            ...

    Entering raises what entering `Broker` raises.
    """

    def __init__(
        self,
        config: BrokerConfig | None = None,
        authority: Authority | None = None,
        listeners: Sequence[Listener] = (),
    ) -> None:
        self._broker = Broker(config, authority, listeners)
        self._address: Future[tuple[str, int]] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="broker", daemon=True)

    def __enter__(self) -> tuple[str, int]:
        self._thread.start()
        return self._address.result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def ask(self, question: Callable[[Broker], T]) -> T:
        """What the question gives for the broker, asked in its own thread, such as `Broker.snapshot`."""

        async def answer() -> T:
            return question(self._broker)

        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with self._broker:
                self._address.set_result(self._broker.address)
                await self._stop.wait()
        except BaseException as error:
            if self._address.done():
                raise
            self._address.set_exception(error)
