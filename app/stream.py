"""The turn as server-sent events."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.sse import EventSourceResponse, ServerSentEvent

from app.chat import Asked, TurnEvent, take_turn
from app.dependencies import Running, within_rate
from app.errors import ERROR_RESPONSES, render
from app.models import ChatResponse, DeltaEvent, SessionEvent

router = APIRouter(tags=["chat"])


async def stream_turn(turn: Asked, turns: Running) -> AsyncIterator[ServerSentEvent]:
    """Begin a turn and return its events, once the question is recorded and the first piece of the answer is there.

    What fails before is raised, and so gets its proper status.
    """
    events: asyncio.Queue[TurnEvent | None] = asyncio.Queue()
    answering = turns.start(take_turn(turn, emit=events.put_nowait))
    answering.add_done_callback(lambda _: events.put_nowait(None))
    session: SessionEvent | None = None
    deltas: list[DeltaEvent] = []
    while session is None or not deltas:
        event = await events.get()
        if isinstance(event, SessionEvent):
            session = event
        elif isinstance(event, DeltaEvent):
            deltas.append(event)
        else:
            answering.result()  # It ended early, so this raises.
    return _events(answering, [session, *deltas], events)


@router.post(
    "/chat/stream",
    dependencies=[Depends(within_rate)],
    response_class=EventSourceResponse,
    responses=ERROR_RESPONSES,
)
async def chat_stream(
    events: Annotated[AsyncIterator[ServerSentEvent], Depends(stream_turn)],
) -> AsyncIterator[ServerSentEvent]:
    """Answer like `POST /chat`, piece by piece, as server-sent events.

    First `session` with `{session_id}`, then `delta` with `{text}` as often as it takes, then either `done` with what
    `POST /chat` returns or `error` with the error body. The answer is finished and recorded even if nobody reads it.
    """
    async for event in events:
        yield event


async def _events(
    answering: asyncio.Task[ChatResponse], opening: Sequence[TurnEvent], following: asyncio.Queue[TurnEvent | None]
) -> AsyncIterator[ServerSentEvent]:
    """Yield the turn's events and one last one that says how it ended, since a cut stream can look like a finished one."""
    for event in opening:
        yield _server_sent(event)
    while (next_event := await following.get()) is not None:
        yield _server_sent(next_event)
    if error := answering.exception():
        body, _, _ = render(error)
        yield ServerSentEvent(event="error", raw_data=body.model_dump_json(exclude_none=True))
    else:
        yield ServerSentEvent(event="done", data=answering.result())


def _server_sent(event: TurnEvent) -> ServerSentEvent:
    return ServerSentEvent(event="session" if isinstance(event, SessionEvent) else "delta", data=event)
