"""Deleting and answering anew beside everything else: random schedules over two services, and then a check of every row.

A schedule is a few rounds of requests to one session, each round at once. DURABILITY_SCHEDULES=1000 runs that many new ones.
"""

import asyncio
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.models import Message, MessageRole
from tests.conftest import Serve, Service, eventually
from tests.fake_openai import FakeOpenAI
from tests.marks import on_postgresql
from tests.test_durability import DEADLINE_SECONDS, MORE_SCHEDULES, Model, WatchedTurns, random_schedules

pytestmark = on_postgresql

SCHEDULES = 25
QUESTIONS = [f"<question {number}>" for number in range(4)]


@dataclass(frozen=True)
class Step:
    """One request: to ask a question, with its key or without, to answer a recorded one anew, or to delete the session."""

    kind: Literal["ask", "ask with a key", "stream", "retry", "delete"]
    question: int
    service: int


def schedules() -> st.SearchStrategy[list[list[Step]]]:
    kinds = st.sampled_from(["ask", "ask", "ask with a key", "stream", "retry", "retry", "retry", "delete"])
    step = st.builds(Step, kinds, st.integers(0, len(QUESTIONS) - 1), st.integers(0, 1))
    return st.lists(st.lists(step, min_size=1, max_size=3), min_size=1, max_size=5)


@dataclass
class Run:
    """What was done, and what came of it."""

    services: Sequence[Service]
    session_id: str
    keys: list[str] = field(default_factory=lambda: [str(uuid.uuid4()) for _ in QUESTIONS])
    answers: list[tuple[Step, dict[str, Any]]] = field(default_factory=list)
    retried: list[tuple[str, str]] = field(default_factory=list)
    """The id of each answer that was given anew, and its text, in the order in which they ended."""
    is_deleted: bool = False

    async def take(self, step: Step) -> None:
        client = self.services[step.service].client
        text = QUESTIONS[step.question]
        if step.kind == "delete":
            response = await client.delete(f"/chat/{self.session_id}")
            assert response.status_code in {204, 404}
            self.is_deleted |= response.status_code == 204
        elif step.kind == "retry":
            await self._retry(step, text)
        else:
            headers = {"Idempotency-Key": self.keys[step.question]} if step.kind == "ask with a key" else {}
            path = "/chat/stream" if step.kind == "stream" else "/chat"
            body = {"message": text, "session_id": self.session_id}
            response = await client.post(path, json=body, headers=headers)
            assert response.status_code in {200, 404, 409, 500}, response.text
            if response.status_code == 200 and "event: error" not in response.text:
                data = response.text.rpartition("event: done\ndata: ")[2] if step.kind == "stream" else response.text
                self.answers.append((step, json.loads(data)))

    async def _retry(self, step: Step, text: str) -> None:
        rows = await self.services[0].tables.messages()
        asked = [row for row in rows if row.content == text and str(row.session_id) == self.session_id]
        if not asked:
            return
        params = {"thread_id": self.session_id, "item_id": str(asked[0].id)}
        response = await self.services[step.service].client.post(
            "/chatkit", json={"type": "threads.retry_after_item", "params": params}
        )
        assert response.status_code == 200
        *_, last = [json.loads(frame.removeprefix("data: ")) for frame in response.text.strip().split("\n\n")]
        if last["type"] == "thread.item.done":
            self.retried.append((last["item"]["id"], last["item"]["content"][0]["text"]))

    def check(self, rows: Sequence[Message]) -> None:
        questions = {row.id: row for row in rows if row.role is MessageRole.user}
        replies = [row for row in rows if row.role is MessageRole.assistant]
        for reply in replies:
            assert reply.reply_to is not None
            question = questions[reply.reply_to]
            assert (reply.id, reply.session_id) == (uuid.uuid5(question.id, "reply"), question.session_id)
            assert reply.content.endswith(f" to: {question.content}")
        assert len({reply.content for reply in replies}) == len(replies)
        if self.is_deleted:
            assert self.session_id not in {str(row.session_id) for row in rows}
        recorded = {(reply.content, str(reply.session_id)) for reply in replies}
        for _, answer in self.answers:
            # In the session, a later retry can have replaced it, or have taken it away with its question.
            if answer["session_id"] != self.session_id or not (self.is_deleted or self.retried):
                assert (answer["response"], answer["session_id"]) in recorded
        with_key: dict[int, set[str]] = {}
        for step, answer in self.answers:
            if step.kind == "ask with a key" and not (self.is_deleted or self.retried):
                with_key.setdefault(step.question, set()).add(answer["response"])
        assert all(len(given) == 1 for given in with_key.values())
        if self.retried and not self.is_deleted:
            last_id, last_text = self.retried[-1]
            assert {str(reply.id): reply.content for reply in replies}.get(last_id) == last_text


@pytest.mark.slow
@random_schedules(SCHEDULES)
@given(
    schedule=schedules(),
    plans=st.lists(
        st.lists(st.sampled_from(["at once", "at once", "at once", "500", "cut", "half"]), max_size=4).map(tuple),
        min_size=len(QUESTIONS),
        max_size=len(QUESTIONS),
    ),
)
async def test_nothing_is_lost_doubled_or_left_behind(
    two_services: Sequence[Service], model: Model, schedule: list[list[Step]], plans: list[tuple[str, ...]]
) -> None:
    await two_services[0].tables.clear()
    model.reset()
    run = Run(two_services, (await two_services[0].chat("Hello")).json()["session_id"])
    model.reset()
    model.plans = dict(zip(QUESTIONS, plans, strict=True))

    for steps in schedule:
        await asyncio.gather(*map(run.take, steps))

    async def idle() -> bool:
        return all(turns.idle for turns in WatchedTurns.instances)

    await eventually(idle)
    rows = await two_services[0].tables.messages()
    run.check([row for row in rows if not row.content.endswith("Hello")])


@pytest.fixture
async def model(model_server: FakeOpenAI) -> Model:
    model = Model()
    model_server.enqueue(*[model] * 50 * (MORE_SCHEDULES or SCHEDULES))
    return model


@pytest.fixture
async def two_services(serve: Serve, model: Model, monkeypatch: pytest.MonkeyPatch) -> list[Service]:
    WatchedTurns.instances = []
    monkeypatch.setattr("app.main.Turns", WatchedTurns)
    # With one connection each, statements wait for each other as they do with a slow database.
    slow = {"DATABASE_POOL_SIZE": "1", "OPENAI_TIMEOUT_SECONDS": str(DEADLINE_SECONDS)}
    return [await serve(**slow) for _ in range(2)]
