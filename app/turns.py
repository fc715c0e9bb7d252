"""The running turns: a limited number, each of which runs to its end."""

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from app.connections import uvicorn_server
from app.errors import DatabaseError, OverloadedError, log

RETRY_AFTER_SECONDS = "1"
CLEARING_UP_SECONDS = 2.0
"""How long cancelled turns may take to give up their claims, which run out by themselves too."""
LAST_BYTES_SECONDS = 2.0
"""How long responses may take to reach their readers once the last turn has ended."""


_of_request: ContextVar[list[asyncio.Task[Any]]] = ContextVar("turns_of_request")


class TurnMiddleware:
    """Lets a request end only when its turns have ended, even if their reader left long ago.

    Vercel freezes an instance that serves no request, and the turns in it. Elsewhere this makes no difference.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        turns: list[asyncio.Task[Any]] = []
        token = _of_request.set(turns)
        try:
            try:
                await self.app(scope, receive, send)
            finally:
                # A turn may start a task that goes on after the turn's own end, such as the count of its tokens.
                while begun := [task for task in turns if not task.done()]:
                    await asyncio.wait(begun)
        except asyncio.CancelledError:
            pass  # The process stops, and the connection is closed: to the server it would be an error with a stack trace.
        finally:
            _of_request.reset(token)
            # A turn's context holds this list, and the list holds the turn with its answer. Emptied, the list lets go of both at
            # once; otherwise they would stay in memory until the garbage collector looks for cycles.
            turns.clear()


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """Raise DatabaseError if the block takes longer: the model and the retriever have earlier deadlines of their own."""
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError as error:
        if limit.expired():
            raise DatabaseError from error
        raise


def finish_with_request(task: asyncio.Task[Any]) -> None:
    """Let the current request, if there is one, end only when this task has ended."""
    if (begun := _of_request.get(None)) is not None:
        begun.append(task)


class Turns:
    """Runs each turn in a task of its own, so that the answer is recorded even if its reader leaves.

    The number of turns is limited and each has a deadline, so readers who leave cannot make work pile up.
    """

    def __init__(self, *, limit: int, grace_seconds: float) -> None:
        self._limit = limit
        self._grace_seconds = grace_seconds
        self._running: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    def start[T](self, turn: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a turn; raises OverloadedError if too many are running or the service has been stopped."""
        if self._is_closed or len(self._running) >= self._limit:
            turn.close()
            raise OverloadedError(retry_after=RETRY_AFTER_SECONDS)
        task = asyncio.create_task(_cut_off_politely(turn))
        self._running.add(task)
        finish_with_request(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(_log_failure)
        return task

    async def run[T](self, turn: Coroutine[Any, Any, T]) -> T:
        """Return the turn's result; the turn goes on if the caller is cancelled. Raises what `start` and the turn raise."""
        return await asyncio.shield(self.start(turn))

    async def close(self) -> None:
        """Let the turns finish within the grace, and then end them."""
        deadline = time.monotonic() + self._grace_seconds
        while self._running and (seconds := deadline - time.monotonic()) > 0:
            await asyncio.wait(self._running, timeout=seconds)
        await self.end()

    async def end(self) -> None:
        """Start no more turns, and cancel those that are running.

        A turn that cannot clear up in time, because the database does not answer, is cancelled again.
        """
        self._is_closed = True
        for task in self._running:
            if not task.cancelling():  # A turn that is clearing up is not disturbed yet.
                task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=CLEARING_UP_SECONDS)
        for task in self._running:
            task.cancel()


async def _cut_off_politely[T](turn: Coroutine[Any, Any, T]) -> T:
    """Await the turn; if the service cancels it, raise OverloadedError for its reader."""
    try:
        return await turn
    except asyncio.CancelledError:
        raise OverloadedError(retry_after=RETRY_AFTER_SECONDS) from None


def _log_failure(turn: asyncio.Task[Any]) -> None:
    """Log why a turn failed, even if nobody waits for it any more."""
    if not turn.cancelled() and (error := turn.exception()):
        log(error)


def _end(server_state: Any) -> None:
    """End every connection and every request of uvicorn."""
    for connection in set(server_state.connections):
        connection.transport.abort()
    for request in set(server_state.tasks):
        request.cancel()


@contextmanager
def on_stop_signal(callback: Callable[[], Coroutine[Any, Any, None]], *, grace_seconds: float) -> Iterator[None]:
    """When the process is told to stop, run the callback after the grace, and then end what is still open.

    Until then the server accepts no connections, and questions on those that are open are answered: a proxy sends them there.
    The server tells the application only when every response has ended, but it is the application that ends the streams. And
    it waits for as long as a client or the database takes: one that never sends the rest of its request would keep the process
    for ever.
    """
    server_handler = signal.getsignal(signal.SIGTERM)
    if not callable(server_handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    server = uvicorn_server()
    loop = asyncio.get_running_loop()
    stopping: list[asyncio.Task[None]] = []
    is_stopping = False

    async def stop() -> None:
        await asyncio.sleep(grace_seconds)
        await callback()
        await asyncio.sleep(LAST_BYTES_SECONDS)
        if server:
            _end(server.server_state)

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopping
        if number == signal.SIGTERM and server:
            # Its own handler would end the process by the same signal once more, and not with status 0.
            server.should_exit = True
        elif not is_stopping or number == signal.SIGINT:
            # A second SIGINT makes the server drop all responses. A person who presses Ctrl-C twice wants that; a supervisor
            # that forwards a signal the process has already received does not.
            server_handler(signal.SIGINT, frame)
        if not is_stopping:
            is_stopping = True
            loop.call_soon_threadsafe(lambda: stopping.append(loop.create_task(stop())))

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for task in stopping:
            task.cancel()
