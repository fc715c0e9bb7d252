"""Readers who ask again and again, and what must be in the database afterwards."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx2

from app.models import Message, MessageRole
from tests.conftest import Service, Tables, eventually
from tests.patience import PATIENCE_SECONDS

type Asked = tuple[str, httpx2.Response]
"""A question, which is never asked twice, and the response."""


class Readers:
    """Some readers, each in a session of their own; `turns` holds what they asked so far."""

    def __init__(self, pause: float) -> None:
        self.turns: list[Asked] = []
        self._pause = pause
        self._stopping = False

    async def read(self, service: Service, name: str) -> None:
        """Ask one question after the other."""
        session_id = None
        for number in itertools.count(1):
            if self._stopping:
                return
            question = f"{name} asks question {number}"
            response = await service.chat(question, **({"session_id": session_id} if session_id else {}))
            self.turns.append((question, response))
            if response.status_code == 200:
                session_id = response.json()["session_id"]
            await asyncio.sleep(self._pause)

    async def go_on(self, turns: int, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait until so many more turns have ended."""
        target = len(self.turns) + turns

        async def reached() -> bool:
            return len(self.turns) >= target

        await eventually(reached, seconds)

    def stop(self) -> None:
        """Let everyone finish the question at hand."""
        self._stopping = True

    @property
    def failures(self) -> list[Asked]:
        return [(question, response) for question, response in self.turns if response.status_code != 200]


@asynccontextmanager
async def reading(*services: Service, readers: int, name: str = "Reader", pause: float = 0) -> AsyncIterator[Readers]:
    """Have so many readers ask each service until the block ends, and wait for their last answers.

    Each pauses for so many seconds after an answer.
    """
    party = Readers(pause)
    async with asyncio.TaskGroup() as group:
        for instance, service in enumerate(services):
            for number in range(readers):
                group.create_task(party.read(service, f"{name} {instance}.{number}"))
        try:
            yield party
        finally:
            party.stop()


async def ask_at_once(*services: Service, questions: int) -> list[Asked]:
    """Ask each service so many questions at the same time, each in a session of its own."""

    async def ask(service: Service, question: str) -> Asked:
        return question, await service.chat(question)

    asking = [
        ask(service, f"Question {instance}.{number}")
        for instance, service in enumerate(services)
        for number in range(questions)
    ]
    return await asyncio.gather(*asking)


async def assert_rows_add_up(tables: Tables, turns: Sequence[Asked]) -> None:
    """See that every answered turn has its two rows, a failed one no row twice, and that there are no others."""
    rows: dict[str, list[Message]] = defaultdict(list)
    for message in await tables.messages():
        rows[message.content.partition(" to: ")[2] or message.content].append(message)
    for question, response in turns:
        found = {message.role: message for message in rows.get(question, [])}
        assert len(found) == len(rows.pop(question, [])), f"{question!r} has a row twice"
        if response.status_code == 200:
            answer = response.json()
            assert found.keys() == {MessageRole.user, MessageRole.assistant}, f"{question!r} has lost a row"
            assert found[MessageRole.assistant].content == answer["response"]
            assert {str(message.session_id) for message in found.values()} == {answer["session_id"]}
    assert not rows
