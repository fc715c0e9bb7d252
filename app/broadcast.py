"""The events of a running turn, kept for whoever follows it."""

import asyncio
import uuid
from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from app.models import DeltaEvent, DoneEvent, FollowUpsEvent, MessageBase, SourcesEvent

type TurnEvent = MessageBase | SourcesEvent | DeltaEvent | FollowUpsEvent
"""What a turn under way tells: its recorded question, the sources that were found, each piece of the answer, what to ask next."""

_BATCH = 64


class Identity(NamedTuple):
    """What two requests for the same turn have in common: what the client sent, whatever has become of the session."""

    key: uuid.UUID
    owner: str | None
    session_id: str | None
    message: str
    selected_text: str | None


class Broadcasts:
    """The turns of this process that can be followed by a request that repeats the one that began them."""

    def __init__(self) -> None:
        self._running: dict[Identity, Broadcast] = {}

    def get(self, identity: Identity) -> "Broadcast | None":
        """Return what the running turn tells, None if there is no such turn."""
        return self._running.get(identity)

    def add(self, identity: Identity, broadcast: "Broadcast", turn: asyncio.Task[DoneEvent]) -> None:
        """Let others follow the turn until it ends; then its answer is recorded, or it can be begun again."""
        self._running[identity] = broadcast
        turn.add_done_callback(lambda _: self._running.pop(identity, None))


class Broadcast:
    """Holds what one turn tells, so that readers can follow it from its beginning, each at their own speed.

    The answer's text is held once, and the pieces that slow readers have yet to take are joined: they cost little more than the
    answer itself.
    """

    def __init__(self) -> None:
        self.followers = 0
        """How many follow it now."""
        self._question: MessageBase | None = None
        self._sources: SourcesEvent | None = None
        self._follow_ups: FollowUpsEvent | None = None
        self._pieces: list[str] = []
        self._starts: list[int] = []
        """Where each piece begins in the text."""
        self._joined = 0
        """How many pieces, counted from the first, are joined ones."""
        self._chars = 0
        self._turn: asyncio.Task[DoneEvent] | None = None
        self._news = asyncio.Event()

    def emit(self, event: TurnEvent) -> None:
        """Tell of something."""
        match event:
            case MessageBase():
                self._question = event
            case SourcesEvent():
                self._sources = event
            case DeltaEvent():
                self._add(event.text)
            case FollowUpsEvent():
                self._follow_ups = event
        self._news.set()

    def end(self, turn: asyncio.Task[DoneEvent]) -> None:
        """Tell of the turn's end."""
        self._turn = turn
        self._news.set()

    def _add(self, text: str) -> None:
        self._pieces.append(text)
        self._starts.append(self._chars)
        self._chars += len(text)
        if len(self._pieces) - self._joined == 2 * _BATCH:
            oldest = slice(self._joined, self._joined + _BATCH)
            self._pieces[oldest] = ["".join(self._pieces[oldest])]
            del self._starts[oldest.start + 1 : oldest.stop]
            self._joined += 1

    async def follow(self) -> AsyncIterator[Sequence[TurnEvent | DoneEvent]]:
        """Yield all that was told since the last time; raises what the turn raised.

        The question comes first, then the sources if there are any, the pieces of the answer, the follow-up questions if there are
        any, and last its end.
        """
        self.followers += 1
        try:
            async for events in self._told():
                yield events
        finally:
            self.followers -= 1

    async def _told(self) -> AsyncIterator[Sequence[TurnEvent | DoneEvent]]:
        is_begun, has_sources, chars = False, False, 0
        while True:
            events: list[TurnEvent | DoneEvent] = []
            if self._question and not is_begun:
                is_begun = True
                events.append(self._question)
            if is_begun and self._sources and not has_sources:
                has_sources = True
                events.append(self._sources)
            if is_begun and chars < self._chars:
                first = bisect_right(self._starts, chars) - 1
                pieces = self._pieces[first : first + _BATCH]
                pieces[0] = pieces[0][chars - self._starts[first] :]
                chars += sum(map(len, pieces))
                events += [DeltaEvent(text=piece) for piece in pieces]
            if events:
                yield events
            elif self._turn:
                done = self._turn.result()
                yield [self._follow_ups, done] if self._follow_ups else [done]
                return
            else:
                self._news.clear()
                await self._news.wait()
