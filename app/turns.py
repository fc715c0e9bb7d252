"""The turns under way: a bounded number, each worked on to its end."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from app.errors import OverloadedError, log

RETRY_AFTER_SECONDS = "1"
CLEARING_UP_SECONDS = 5.0
"""How long turns that were cut off may take to give up their claims."""


class Turns:
    """Runs turns as tasks of their own, so that a reader who leaves does not take the answer along.

    Since every turn has a deadline and their number a limit, a flood of readers who leave stays bounded.
    """

    def __init__(self, *, limit: int, grace_seconds: float) -> None:
        self._limit = limit
        self._grace_seconds = grace_seconds
        self._running: set[asyncio.Task[Any]] = set()
        self._closes_at: float | None = None

    def start[T](self, turn: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin a turn; raises OverloadedError when too many are under way or the service is stopping."""
        if self._closes_at is not None or len(self._running) >= self._limit:
            turn.close()
            raise OverloadedError(retry_after=RETRY_AFTER_SECONDS)
        task = asyncio.create_task(_cut_off_politely(turn))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(_log_failure)
        return task

    async def run[T](self, turn: Coroutine[Any, Any, T]) -> T:
        """Return the turn's result; it goes on when the caller is cancelled. Raises as `start` does."""
        return await asyncio.shield(self.start(turn))

    async def close(self) -> None:
        """Take no more turns, and let those under way finish within the grace, counted from the first call."""
        if self._closes_at is None:
            self._closes_at = time.monotonic() + self._grace_seconds
        if self._running:
            await asyncio.wait(self._running, timeout=max(0.0, self._closes_at - time.monotonic()))
        for task in self._running:
            if not task.cancelling():  # A second call leaves those alone that are clearing up.
                task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=CLEARING_UP_SECONDS)


async def _cut_off_politely[T](turn: Coroutine[Any, Any, T]) -> T:
    """Await the turn, and have its reader told when the service cancels it."""
    try:
        return await turn
    except asyncio.CancelledError:
        raise OverloadedError(retry_after=RETRY_AFTER_SECONDS) from None


def _log_failure(turn: asyncio.Task[Any]) -> None:
    """Log how a turn failed, whether or not somebody still waits for it."""
    if not turn.cancelled() and (error := turn.exception()):
        log(error)


@contextmanager
def on_stop_signal(callback: Callable[[], Coroutine[Any, Any, None]]) -> Iterator[None]:
    """Run the callback when the process is asked to stop, beside the server's own handler.

    The server says nothing to the application before every response has ended, and streams have to be ended by us.
    It is told of an interrupt instead of a termination: it stops in the same way, but then leaves with status 0.
    """
    servers_own = signal.getsignal(signal.SIGTERM)
    if not callable(servers_own) or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    stopping = False
    called: list[asyncio.Task[None]] = []

    def call() -> None:
        called.append(loop.create_task(callback()))

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        # A second interrupt makes the server drop everything. That is what a person means by it, but not what a
        # supervisor means that passes a signal on which the process has had already.
        if not stopping or number == signal.SIGINT:
            servers_own(signal.SIGINT, frame)
        if not stopping:
            stopping = True
            loop.call_soon_threadsafe(call)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
