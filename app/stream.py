"""The turn as server-sent events."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, override

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.types import Message, Send

from app.chat import Asked, Emit, TurnEvent, take_turn
from app.dependencies import Running, within_rate
from app.errors import ERROR_RESPONSES, render
from app.models import ApiModel, ChatResponse, DeltaEvent, MessageBase, SessionEvent
from app.turns import Turns

router = APIRouter(tags=["chat"])

KEEPALIVE_SECONDS = 15.0

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # Proxies are not to hold pieces back.
}
_EVENT_SCHEMA = {
    "type": "object",
    "properties": {
        "event": {"enum": ["session", "delta", "done", "error"]},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
    "required": ["event", "data"],
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"itemSchema": _EVENT_SCHEMA}}},
    **ERROR_RESPONSES,
}


class EventStream(StreamingResponse):
    """Server-sent events whose response starts with the first of them: what is raised before gets its proper status.

    FastAPI's own event streams start it at once; whether the turn works is known later, with the model's first piece.
    """

    @override
    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        super().init_headers({**_HEADERS, **(headers or {})})

    @override
    async def stream_response(self, send: Send) -> None:
        start: Message | None = None

        async def send_start_with_body(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            if start is not None:
                await send(start)
                start = None
            await send(message)

        await super().stream_response(send_start_with_body)


@router.post(
    "/chat/stream",
    dependencies=[Depends(within_rate)],
    response_class=EventStream,
    responses=_RESPONSES,
)
async def chat_stream(turn: Asked, turns: Running) -> EventStream:
    """Answer like `POST /chat`, piece by piece, as server-sent events.

    First `session` with `{session_id}`, then `delta` with `{text}` as often as it takes, then either `done` with what
    `POST /chat` returns or `error` with the error body. The answer is finished and recorded even if nobody reads it.
    """
    return EventStream(_events(*begin(turns, lambda emit: take_turn(turn, emit=emit))))


type Events = asyncio.Queue[TurnEvent | None]


def begin(
    turns: Turns, take: Callable[[Emit], Coroutine[Any, Any, ChatResponse]]
) -> tuple[asyncio.Task[ChatResponse], Events]:
    """Begin a turn, and return it with its events to come, of which the last is None; raises as `Turns.start` does."""
    events: Events = asyncio.Queue()
    answering = turns.start(take(events.put_nowait))
    answering.add_done_callback(lambda _: events.put_nowait(None))
    return answering, events


async def until_recorded(answering: asyncio.Task[ChatResponse], events: Events) -> tuple[MessageBase, list[TurnEvent]]:
    """Wait for the turn's question to be recorded, and return it with what was told before; raises as the turn does."""
    early: list[TurnEvent] = []
    while not isinstance(event := await _next(answering, events), MessageBase):
        early.append(event)
    return event, early


async def _next(answering: asyncio.Task[ChatResponse], events: Events) -> TurnEvent:
    event = await events.get()
    if event is None:
        answering.result()  # It ended before its answer began, so this raises.
        raise AssertionError("a turn tells of its question and of its answer before it ends")
    return event


async def following(events: Events) -> AsyncIterator[TurnEvent | bytes]:
    """Yield the events that are left, and while there are none a comment now and then, which keeps proxies patient."""
    while True:
        try:
            async with asyncio.timeout(KEEPALIVE_SECONDS):
                event = await events.get()
        except TimeoutError:
            yield KEEPALIVE_COMMENT
            continue
        if event is None:
            return
        yield event


async def _events(answering: asyncio.Task[ChatResponse], events: Events) -> AsyncIterator[bytes]:
    """Yield the turn's events from the first piece of the answer on, and one last one that says how it ended.

    A cut stream can look like a finished one, hence the last one. What fails before the first piece is raised.
    """
    asked, told = await until_recorded(answering, events)
    while not any(isinstance(event, DeltaEvent) for event in told):
        told.append(await _next(answering, events))
    yield _server_sent("session", SessionEvent(session_id=asked.session_id)) + b"".join(
        _server_sent("delta", event) for event in told if isinstance(event, DeltaEvent)
    )

    async for next_event in following(events):
        if isinstance(next_event, bytes):
            yield next_event
        elif isinstance(next_event, DeltaEvent):
            yield _server_sent("delta", next_event)
    if error := answering.exception():
        body, _, _ = render(error)
        yield _server_sent("error", body)
    else:
        yield _server_sent("done", answering.result())


def _server_sent(event: str, data: ApiModel) -> bytes:
    return format_sse_event(event=event, data_str=data.model_dump_json(exclude_none=True))
