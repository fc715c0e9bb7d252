"""Requests that are repeated while conversations are deleted: one key has one answer, and what was deleted stays deleted."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from sqlalchemy import select
from sqlmodel import col

from app import dsn
from app.admin import prune
from app.database import Database
from app.models import ChatSession, Message, MessageRole, utc_now
from tests import kept
from tests.conftest import READERS_TOKEN, Service
from tests.events import events_of
from tests.fake_openai import FakeOpenAI, failure, held

UNKNOWN = str(uuid.uuid4())
STEPS = 70


def new_key() -> str:
    return str(uuid.uuid4())


async def ask(service: Service, key: str, message: str = "Why?", **fields: Any) -> httpx2.Response:
    return await service.client.post("/chat", json={"message": message, **fields}, headers={"Idempotency-Key": key})


async def delete(service: Service, session_id: str) -> None:
    assert (await service.client.delete(f"/chat/{session_id}")).status_code == 204


async def test_a_deleted_conversation_does_not_come_back_under_its_id(
    service: Service, model_server: FakeOpenAI
) -> None:
    key = new_key()
    first = (await ask(service, key)).json()
    await delete(service, first["session_id"])

    second = (await ask(service, key)).json()

    assert second["session_id"] != first["session_id"]
    assert second["response"] == "Answer 2 to: Why?"
    assert (await ask(service, key)).json() == second
    assert (await service.client.get(f"/chat/{first['session_id']}/messages")).status_code == 404


async def test_a_question_in_a_deleted_session_is_the_same_request_whatever_becomes_of_that_session(
    service: Service, model_server: FakeOpenAI
) -> None:
    first_key, second_key = new_key(), new_key()
    deleted = (await ask(service, first_key, "One?")).json()["session_id"]
    await delete(service, deleted)
    model_server.enqueue(failure(500))
    failed = await ask(service, second_key, "Two?", session_id=deleted)
    again = await ask(service, first_key, "One?")

    answered = await ask(service, second_key, "Two?", session_id=deleted)

    assert (failed.status_code, again.status_code, answered.status_code) == (500, 200, 200)
    questions = {m.content: str(m.session_id) for m in await service.tables.messages() if m.role is MessageRole.user}
    assert answered.json()["session_id"] == questions["Two?"]
    assert deleted not in questions.values()
    assert (await ask(service, second_key, "Two?", session_id=deleted)).json() == answered.json()


async def test_a_key_of_a_session_that_was_begun_anew_belongs_to_the_one_that_was_named(
    service: Service, model_server: FakeOpenAI
) -> None:
    key = new_key()
    begun = (await ask(service, key, session_id=UNKNOWN)).json()

    others = [
        await ask(service, key),
        await ask(service, key, session_id=new_key()),
        await ask(service, key, "Why not?", session_id=UNKNOWN),
        await ask(service, key, session_id=UNKNOWN, selected_text="Because."),
        await service.client.post(
            "/chat",
            json={"message": "Why?", "session_id": UNKNOWN},
            headers={"Idempotency-Key": key, "X-Reader-Token": READERS_TOKEN},
        ),
    ]

    assert {response.json()["error"]["code"] for response in others} == {"idempotency_conflict"}
    assert (await ask(service, key, session_id=UNKNOWN)).json() == begun
    assert (await ask(service, key, session_id=begun["session_id"])).json() == begun
    assert len(model_server.requests) == 1


async def test_an_answer_on_its_way_does_not_bring_back_its_deleted_session(
    service: Service, model_server: FakeOpenAI
) -> None:
    key, slow, quick = new_key(), asyncio.Event(), asyncio.Event()
    model_server.enqueue(held(slow), held(quick))
    overtaken = asyncio.create_task(ask(service, key))
    await model_server.wait_for_requests(1)
    [session] = await service.tables.sessions()
    await delete(service, str(session.id))
    repeated = asyncio.create_task(ask(service, key))
    await model_server.wait_for_requests(2)

    slow.set()
    late = await overtaken
    quick.set()
    answered = await repeated

    assert (late.status_code, answered.status_code) == (404, 200)
    assert answered.json()["session_id"] != str(session.id)
    assert await service.tables.replies() == [answered.json()["response"]]
    assert (await ask(service, key)).json() == answered.json()


async def test_a_stream_that_is_repeated_names_the_session_in_which_it_is_answered(
    service: Service, model_server: FakeOpenAI
) -> None:
    key, deleted = new_key(), (await service.chat()).json()["session_id"]
    await delete(service, deleted)
    model_server.enqueue(failure(500))
    await ask(service, key, session_id=deleted)
    [begun] = await service.tables.sessions()

    streamed = []
    for _ in range(2):
        body, headers = {"message": "Why?", "session_id": deleted}, {"Idempotency-Key": key}
        async with service.client.stream("POST", "/chat/stream", json=body, headers=headers) as response:
            streamed.append([event async for event in events_of(response)])

    for events in streamed:
        assert events[0] == ("session", {"session_id": str(begun.id)})
        assert events[-1][1]["session_id"] == str(begun.id)
    assert {record["session_id"] for record in service.log("request")[-2:]} == {str(begun.id)}


@dataclass
class Request:
    """A request with a key, and what it is known to have led to."""

    message: str
    session_id: str | None
    token: str | None
    key: str = field(default_factory=new_key)
    session: str | None = None
    """The session in which its question stands, as long as it does."""
    answer: dict[str, Any] | None = None

    async def send(self, service: Service) -> httpx2.Response:
        headers = {"Idempotency-Key": self.key, **({"X-Reader-Token": self.token} if self.token else {})}
        body = {"message": self.message, "session_id": self.session_id}
        return await service.client.post("/chat", json=body, headers=headers)


class Walk:
    """Requests sent, repeated and failing, and conversations deleted and pruned, in a random order."""

    def __init__(self, service: Service, model_server: FakeOpenAI, database: Database, seed: int) -> None:
        self.service, self.model_server, self.database = service, model_server, database
        self.random = random.Random(seed)
        self.requests: list[Request] = []
        self.owners: dict[str, str | None] = {}
        """The sessions that exist, and whose they are."""
        self.gone: set[str] = set()
        self.history: list[str] = []

    async def step(self) -> None:
        action = self.random.choice(
            [
                self.send_new,
                self.send_new,
                self.repeat,
                self.repeat,
                self.repeat,
                self.delete,
                self.delete_own,
                self.prune,
            ]
        )
        self.history.append(action.__name__)
        await action()
        existing = {str(row.id) for row in await self.database.execute((select(col(ChatSession.id)), {}))}
        assert existing == set(self.owners), self.history
        assert not existing & self.gone, self.history

    async def send_new(self) -> None:
        known = [None, UNKNOWN, *self.owners, *self.gone]
        token = self.random.choice([None, READERS_TOKEN])
        request = Request(f"Question {len(self.requests)}?", self.random.choice(known), token)
        self.requests.append(request)
        await self._send(request)

    async def repeat(self) -> None:
        if self.requests:
            await self._send(self.random.choice(self.requests[-6:]))

    async def _send(self, request: Request) -> None:
        fails = request.answer is None and self.random.random() < 0.4
        if fails:
            self.model_server.enqueue(failure(500))
        asked, place = len(self.model_server.requests), self._place(request)
        self.history.append(f"{request} {'fails' if fails else ''}")

        response = await request.send(self.service)

        body = response.json()
        if request.answer is not None:
            assert (response.status_code, body) == (200, request.answer), self.history
            assert len(self.model_server.requests) == asked, self.history
            return
        assert response.status_code == (500 if fails else 200), (body, self.history)
        [question] = await self.database.execute((select(Message).where(col(Message.content) == request.message), {}))
        request.session = str(question.session_id)
        assert place in {None, request.session}, self.history
        if place is None:
            assert request.session not in self.gone | {request.session_id}, self.history
            self.owners[request.session] = request.token
        if not fails:
            assert body["session_id"] == request.session, self.history
            request.answer = body

    def _place(self, request: Request) -> str | None:
        """Where the request is to be answered; None for a new session."""
        if request.session:
            return request.session
        named = request.session_id
        return named if named in self.owners and self.owners[named] in {None, request.token} else None

    async def delete(self) -> None:
        if open_to_all := [session for session, owner in self.owners.items() if owner is None]:
            session = self.random.choice(open_to_all)
            await delete(self.service, session)
            self._forget({session})

    async def delete_own(self) -> None:
        await self.service.client.delete("/chat", headers={"X-Reader-Token": READERS_TOKEN})
        self._forget({session for session, owner in self.owners.items() if owner})

    async def prune(self) -> None:
        if self.random.random() < 0.3:
            await prune(self.database, before=utc_now() + timedelta(days=1))
            self._forget(set(self.owners))

    def _forget(self, sessions: set[str]) -> None:
        self.gone |= sessions
        self.owners = {session: owner for session, owner in self.owners.items() if session not in sessions}
        for request in self.requests:
            if request.session in sessions:
                request.session = request.answer = None


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = kept.database(dsn.parse(database_url), pool_size=1)
    yield database
    await database.close()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 10))])
async def test_in_whatever_order_a_key_has_one_answer_and_what_was_deleted_stays_deleted(
    service: Service, model_server: FakeOpenAI, database: Database, seed: int
) -> None:
    walk = Walk(service, model_server, database, seed)

    for _ in range(STEPS):
        await walk.step()

    assert walk.gone
    assert any(request.answer for request in walk.requests)
