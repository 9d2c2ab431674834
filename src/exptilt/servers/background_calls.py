"""A server asked from code that is not asynchronous, also where a notebook's event loop runs already."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from exptilt.servers.endpoint import Endpoint
from exptilt.servers.server_client import ServerClient, ServerReply

T = TypeVar("T")

_MOMENT = 0.05
"""Seconds."""


class BackgroundCalls:
    """Calls of one server on an event loop in a thread of its own; a context manager, which waits for none of them."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._client = ServerClient(endpoint)  # whoever calls wrongly hears of it here, before a thread starts
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> BackgroundCalls:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def submit(self, request: dict[str, Any], optional: Sequence[str] = ()) -> Future[ServerReply]:
        """Begin a call, see `ServerClient.ask`."""
        return asyncio.run_coroutine_threadsafe(self._client.ask(request, optional), self._loop)

    def control(self, method: Literal["GET", "POST"], path: str, body: dict[str, Any] | None = None) -> ServerReply:
        """Ask and wait, see `ServerClient.control`."""
        return asyncio.run_coroutine_threadsafe(self._client.control(method, path, body), self._loop).result()

    async def _close(self) -> None:
        self._client.begin_no_more()
        await asyncio.sleep(
            _MOMENT
        )  # a connection that is cancelled before its first step is complained of when it is collected
        await _cancel_all()
        await self._client.__aexit__()
        await self._loop.shutdown_asyncgens()


async def _cancel_all() -> None:
    """End all other tasks, and those that they begin while they end."""
    while running := [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns; where this thread has a running event loop already, another thread runs it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
