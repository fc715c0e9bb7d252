"""What a turn tells, followed by readers who come early or late and read at every speed."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.broadcast import Broadcast, TurnEvent
from app.errors import ModelError
from app.models import DeltaEvent, DoneEvent, MessageBase, MessageRole, SourcesEvent, utc_now

QUESTION = MessageBase(session_id=uuid.uuid4(), role=MessageRole.user, content="Why?")
SOURCES = SourcesEvent(sources=[{"number": 1, "title": "Gait", "url": "https://book.example.org/gait"}])
DONE = DoneEvent(
    response="So.", session_id=QUESTION.session_id, timestamp=utc_now(), message_id=uuid.uuid4(), sources=[]
)

type Told = list[TurnEvent | DoneEvent]
type Batches = AsyncIterator[Sequence[TurnEvent | DoneEvent]]


async def end(broadcast: Broadcast, error: Exception | None = None) -> None:
    """End the turn well, or with the error."""

    async def turn() -> DoneEvent:
        if error:
            raise error
        return DONE

    task = asyncio.create_task(turn())
    await asyncio.wait([task])
    broadcast.end(task)


async def followed(broadcast: Broadcast) -> Told:
    """Return what a reader is told who follows from now to the end."""
    return [event async for events in broadcast.follow() for event in events]


class Reader:
    """Follows from the piece number `begin` on, and then takes what there is after every `pace` pieces."""

    def __init__(self, begin: int, pace: int) -> None:
        self.told: Told = []
        self._begin, self._pace = begin, pace
        self._events: Batches | None = None

    async def hear(self, broadcast: Broadcast, number: int) -> None:
        if number >= self._begin and (number - self._begin) % self._pace == 0:
            self._events = self._events or broadcast.follow()
            self.told += await anext(self._events)

    async def hear_the_rest(self, broadcast: Broadcast) -> None:
        async for events in self._events or broadcast.follow():
            self.told += events


readers = st.builds(Reader, begin=st.integers(0, 400), pace=st.integers(1, 200))


@given(count=st.integers(0, 400), readers=st.lists(readers, min_size=1, max_size=4))
async def test_whoever_follows_is_told_everything_once_and_in_its_order(count: int, readers: list[Reader]) -> None:
    broadcast = Broadcast()
    broadcast.emit(QUESTION)
    for number in range(count):
        broadcast.emit(DeltaEvent(text=f"{number} "))
        for reader in readers:
            await reader.hear(broadcast, number)
    await end(broadcast)
    for reader in readers:
        await reader.hear_the_rest(broadcast)

    for reader in readers:
        first, *deltas, last = reader.told
        assert (first, last) == (QUESTION, DONE)
        assert all(isinstance(delta, DeltaEvent) for delta in deltas)
        text = "".join(delta.text for delta in deltas if isinstance(delta, DeltaEvent))
        assert text == "".join(f"{number} " for number in range(count))


async def test_what_is_told_before_the_question_comes_after_it() -> None:
    broadcast = Broadcast()
    following = asyncio.create_task(followed(broadcast))
    broadcast.emit(SOURCES)
    broadcast.emit(DeltaEvent(text="So."))
    await asyncio.sleep(0)
    broadcast.emit(QUESTION)
    await end(broadcast)

    assert await following == [QUESTION, SOURCES, DeltaEvent(text="So."), DONE]


async def test_sources_that_are_found_after_the_question_was_told_come_before_the_answer() -> None:
    broadcast = Broadcast()
    events = broadcast.follow()
    broadcast.emit(QUESTION)
    assert await anext(events) == [QUESTION]
    broadcast.emit(SOURCES)
    broadcast.emit(DeltaEvent(text="So."))
    await end(broadcast)

    assert await anext(events) == [SOURCES, DeltaEvent(text="So.")]
    assert await anext(events) == [DONE]
    assert await followed(broadcast) == [QUESTION, SOURCES, DeltaEvent(text="So."), DONE]


async def test_the_pieces_that_a_late_reader_has_missed_are_few() -> None:
    broadcast = Broadcast()
    broadcast.emit(QUESTION)
    for _ in range(10_000):
        broadcast.emit(DeltaEvent(text="x"))
    await end(broadcast)

    told = await followed(broadcast)

    assert len(told) < 400
    assert sum(len(event.text) for event in told if isinstance(event, DeltaEvent)) == 10_000


async def test_a_reader_is_told_a_few_pieces_at_a_time() -> None:
    broadcast = Broadcast()
    broadcast.emit(QUESTION)
    for _ in range(100):
        broadcast.emit(DeltaEvent(text="x"))
    await end(broadcast)

    batches = [len(events) async for events in broadcast.follow()]

    assert batches == [65, 36, 1]


async def test_a_turn_that_fails_fails_its_readers_after_its_last_piece() -> None:
    broadcast = Broadcast()
    broadcast.emit(QUESTION)
    broadcast.emit(DeltaEvent(text="Half an "))
    events = broadcast.follow()
    await end(broadcast, ModelError())

    assert await anext(events) == [QUESTION, DeltaEvent(text="Half an ")]
    with pytest.raises(ModelError):
        await anext(events)


async def test_sources_that_are_found_after_the_question_was_told_are_told_too() -> None:
    broadcast = Broadcast()
    events = broadcast.follow()
    broadcast.emit(QUESTION)
    told = [*await anext(events)]
    broadcast.emit(SOURCES)
    broadcast.emit(DeltaEvent(text="So."))
    told += await anext(events)

    assert told == [QUESTION, SOURCES, DeltaEvent(text="So.")]
