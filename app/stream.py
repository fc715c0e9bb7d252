"""The turn as server-sent events."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, override

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.types import Send

from app.broadcast import Broadcast, TurnEvent
from app.chat import Emit, TurnDep, take_turn
from app.dependencies import StateRequest, TurnsDep
from app.errors import ERROR_RESPONSES, OverloadedError, TurnInProgressError, log, render
from app.logs import current_request
from app.models import ApiModel, DeltaEvent, DoneEvent, FollowUpsEvent, MessageBase, SessionEvent, SourcesEvent
from app.regeneration import RegenerationDep
from app.turns import Turns

router = APIRouter(tags=["chat"])

KEEPALIVE_SECONDS = 15.0
STALLED_READER_SECONDS = 30.0
"""How long a reader may take nothing before the stream is cut off; the turn goes on."""

MOST_FOLLOWERS = 10
"""How many requests may follow one turn at the same time: one question buys no more."""

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # Tells proxies not to hold pieces back.
}
_EVENT_SCHEMA = {
    "type": "object",
    "properties": {
        "event": {"enum": ["session", "sources", "delta", "follow_ups", "done", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"itemSchema": _EVENT_SCHEMA}}},
    **ERROR_RESPONSES,
}


class EventStream(StreamingResponse):
    """Server-sent events, whose response starts with the first frame.

    What the frames raise before that is raised on, and gets its proper status. What they raise later becomes the last frame,
    since a stream that breaks off can look like one that has ended. FastAPI's own event streams start at once, before it is
    known whether the turn works. Without `has_error_statuses` every failure becomes a frame.

    A reader who takes nothing for STALLED_READER_SECONDS loses the rest of the stream, so that it need not be held.

    A silent stream gets a comment every KEEPALIVE_SECONDS, the first of which starts the response too: proxies close
    connections on which nothing moves.
    """

    def __init__(
        self,
        frames: AsyncGenerator[bytes],
        *,
        error_frame: Callable[[Exception], bytes],
        comment: bytes = KEEPALIVE_COMMENT,
        has_error_statuses: bool = True,
    ) -> None:
        super().__init__(frames)
        self._frames = frames
        self._error_frame = error_frame
        self._comment = comment
        self._has_error_statuses = has_error_statuses

    @override
    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        super().init_headers({**_HEADERS, **(headers or {})})

    @override
    async def stream_response(self, send: Send) -> None:
        loop, writing = asyncio.get_running_loop(), asyncio.Lock()
        started, silent_since = False, loop.time()

        async def write(body: bytes, *, more_body: bool = True) -> None:
            nonlocal started, silent_since
            async with writing:
                if not started:
                    started = True
                    start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
                    await send(start)
                await send({"type": "http.response.body", "body": body, "more_body": more_body})
                silent_since = loop.time()

        async def fill_silence() -> None:
            while True:
                remaining = silent_since + KEEPALIVE_SECONDS - loop.time()
                if remaining > 0:
                    await asyncio.sleep(remaining)
                else:
                    await write(self._comment)

        filling = asyncio.create_task(fill_silence())
        try:
            async with contextlib.aclosing(self._frames) as frames:
                async for frame in frames:
                    await _within(STALLED_READER_SECONDS, write(frame))
        except Exception as error:
            if not started and self._has_error_statuses:
                raise
            log(error)
            await write(self._error_frame(error))
        finally:
            filling.cancel()
            await asyncio.gather(filling, return_exceptions=True)
        await write(b"", more_body=False)


async def _within(seconds: float, writing: Awaitable[None]) -> None:
    """Await the writing; raises OverloadedError if the reader takes nothing for so long, and holds what is told back."""
    try:
        async with asyncio.timeout(seconds):
            await writing
    except TimeoutError:
        raise OverloadedError from None


@router.post(
    "/chat/stream",
    status_code=200,
    response_class=EventStream,
    responses=_RESPONSES,
)
async def chat_stream(request: StateRequest, turn: TurnDep, turns: TurnsDep) -> EventStream:
    """Answer like `POST /chat`, piece by piece, as server-sent events.

    First `session` with `{session_id}`, then `sources` with `{sources: [{number, title, url}]}` if passages of the book were
    found, each with its `snippet` if that is asked for, then `delta` with `{text}` as often as it takes, then `follow_ups` with
    `{questions}` if they are asked for and the model gave some, then either `done` or `error` with the error body. `done` has what
    `POST /chat` returns, the answer's `message_id`, and the `sources` that it cites. The answer is finished and recorded even
    if nobody reads it. Whoever repeats the request with its `Idempotency-Key` meanwhile gets the same events, from the first.
    """
    identity, broadcasts = turn.identity, request.state["broadcasts"]
    broadcast = broadcasts.get(identity) if identity else None
    if broadcast is None:
        broadcast = Broadcast()
        task = begin_turn(turns, partial(take_turn, turn), broadcast)
        if identity:
            broadcasts.add(identity, broadcast, task)
    elif broadcast.followers >= MOST_FOLLOWERS:
        raise TurnInProgressError(retry_after="1")
    return _event_stream(broadcast)


@router.post(
    "/chat/{session_id}/messages/{message_id}/regenerate/stream",  # noqa: FAST003  # The dependency has both.
    status_code=200,
    response_class=EventStream,
    responses=_RESPONSES,
)
async def regenerate_stream(regeneration: RegenerationDep, turns: TurnsDep) -> EventStream:
    """Answer a recorded question anew, with the events of `POST /chat/stream`."""
    broadcast = Broadcast()
    begin_turn(turns, regeneration.take, broadcast)
    return _event_stream(broadcast)


def _event_stream(broadcast: Broadcast) -> EventStream:
    frames = _TurnFrames()
    return EventStream(frames.of(broadcast.follow()), error_frame=frames.of_error)


type Take = Callable[[Emit], Coroutine[Any, Any, DoneEvent]]
"""Takes a turn, and tells of it meanwhile."""


def begin_turn(turns: Turns, take: Take, broadcast: Broadcast) -> asyncio.Task[DoneEvent]:
    """Begin a turn that can be followed; raises as `Turns.start` does. It goes on when nobody follows it any more."""
    task = turns.start(take(broadcast.emit))
    task.add_done_callback(broadcast.end)
    return task


class _TurnFrames:
    """A turn's frames; the session comes with the first piece, until which a failure has a status of its own."""

    def __init__(self) -> None:
        self._held = b""

    async def of(self, batches: AsyncIterator[Sequence[TurnEvent | DoneEvent]]) -> AsyncGenerator[bytes]:
        """Yield the frames of these events."""
        async for events in batches:
            frames = self._held + b"".join(map(_frame_of, events))
            is_held = all(isinstance(event, MessageBase | SourcesEvent) for event in events)
            self._held = frames if is_held else b""
            if not is_held:
                yield frames

    def of_error(self, error: Exception) -> bytes:
        """Return the last frame of a turn that failed, after the session if that was still held back."""
        return self._held + _frame("error", render(error)[0])


def _frame_of(event: TurnEvent | DoneEvent) -> bytes:
    match event:
        case MessageBase():
            current_request().session_id = event.session_id  # A request that only follows learns it here.
            return _frame("session", SessionEvent(session_id=event.session_id))
        case SourcesEvent():
            return _frame("sources", event)
        case DeltaEvent():
            return _frame("delta", event)
        case FollowUpsEvent():
            return _frame("follow_ups", event)
        case DoneEvent():
            return _frame("done", event)


def _frame(event: str, data: ApiModel) -> bytes:
    return format_sse_event(event=event, data_str=data.model_dump_json(exclude_none=True))
