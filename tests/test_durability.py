"""No turn is lost, recorded twice or mixed up with another: random schedules, and then a check of every row.

A schedule is a few rounds of questions, each round asked at once: plain or streamed, with a key or without, to either
of two services on one PostgreSQL, by readers who stay or leave, while the model fails as the schedule says.
DURABILITY_SCHEDULES=1000 runs that many new ones instead of the same few.
"""

import asyncio
import json
import logging
import os
import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, override

import httpx2
import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from app.logs import current_request
from app.models import Message, MessageRole
from app.turns import Turns
from tests.conftest import Serve, Service, eventually
from tests.fake_openai import (
    Exchange,
    FakeOpenAI,
    Reply,
    answer_in_kind,
    completion,
    cut,
    cut_stream,
    error_event,
    failure,
    stall,
    stream,
)
from tests.marks import on_postgresql

pytestmark = on_postgresql

MORE_SCHEDULES = int(os.environ.get("DURABILITY_SCHEDULES", "0"))
SCHEDULES = 30
DEADLINE_SECONDS = 0.4

PLAIN_FAULTS: dict[str, Reply] = {
    "500": failure(500),
    "429": failure(429),
    "cut": cut,
    "half": completion("Half an", "content_filter"),
    "stall": stall,
}
STREAM_FAULTS: dict[str, Reply] = {
    "500": failure(500),
    "429": failure(429),
    "cut": stream("Half an ", then=cut_stream),
    "half": stream("Half an ", finish_reason=None),
    "broken": stream("Half an ", then=error_event),
    "stall": stream("Half an ", "answer", gate=asyncio.Event()),
}
ANSWERED = ("at once", "together")
"""`together` holds the answer until the whole round has been asked."""


@dataclass(frozen=True)
class Question:
    """A question, and what the model does with it at each attempt; after that it answers at once."""

    number: int
    keyed: bool
    continues: bool
    """Whether it belongs to the session that all share, or begins one."""
    model: tuple[str, ...]

    @property
    def text(self) -> str:
        return f"<question {self.number}>"


@dataclass(frozen=True)
class Ask:
    """One request: who asks what in which way, and when the reader leaves."""

    question: Question
    streamed: bool
    service: int
    leaves: str | None


def schedules() -> st.SearchStrategy[list[list[Ask]]]:
    model = st.lists(
        st.sampled_from([*ANSWERED, *ANSWERED, "500", "429", "cut", "half", "broken", "stall"]), min_size=1, max_size=3
    ).map(tuple)
    questions = st.lists(st.tuples(st.booleans(), st.booleans(), model), min_size=1, max_size=5).map(
        lambda drawn: [Question(number, *parts) for number, parts in enumerate(drawn)]
    )
    leaves = st.sampled_from([None, None, None, "sent", "asked", "answered"])

    def of(known: list[Question]) -> st.SearchStrategy[list[list[Ask]]]:
        ask = st.builds(Ask, st.sampled_from(known), st.booleans(), st.integers(0, 1), leaves)
        return st.lists(st.lists(ask, min_size=1, max_size=4), min_size=1, max_size=4)

    return questions.flatmap(of)


class Model:
    """What the model does, by the question that it is asked."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.calls: Counter[str] = Counter()
        self.prompts: list[list[str]] = []
        self.plans: dict[str, tuple[str, ...]] = {}
        self.gate = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        prompt = [message["content"] for message in exchange.body["messages"]]
        question = prompt[-1]
        attempt = self.calls[question]
        self.calls[question] += 1
        self.prompts.append(prompt)
        plan = self.plans.get(question, ())
        behaviour = plan[attempt] if attempt < len(plan) else "at once"
        if behaviour == "together":
            await self.gate.wait()
        faults = STREAM_FAULTS if exchange.body.get("stream") else PLAIN_FAULTS
        await faults.get(behaviour, answer_in_kind)(exchange)


@dataclass
class Outcome:
    """What a reader who stayed got."""

    ask: Ask
    status: int
    answer: dict[str, Any] | None = None
    code: str | None = None
    deltas: list[str] = field(default_factory=list)
    session: str | None = None


class Books(logging.Handler):
    """What the services say in their log of requests, calls and errors."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.reset()

    def reset(self) -> None:
        self.requests = 0
        self.calls: dict[str, list[object]] = defaultdict(list)
        self.errors: list[str] = []

    @override
    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message == "request":
            self.requests += 1
        elif message == "openai.call":
            self.calls[current_request().request_id].append(getattr(record, "fields", {})["status"])
        elif record.levelno >= logging.ERROR and message != "openai.error":
            self.errors.append(f"{message} {record.exc_info}")


class WatchedTurns(Turns):
    """Turns of which one can see whether any is under way."""

    instances: list["WatchedTurns"]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.instances.append(self)

    @property
    def idle(self) -> bool:
        return not self._running


class Schedule:
    """One run: asks what the schedule says, and then checks the books."""

    def __init__(self, services: Sequence[Service], model: Model, books: Books, questions: set[Question]) -> None:
        self.services = services
        self.model = model
        self.books = books
        self.keys = {question: str(uuid.uuid4()) for question in questions if question.keyed}
        self.sent: dict[str, Question] = {}
        self.outcomes: list[Outcome] = []
        self.shared_session = ""

    async def begin(self) -> None:
        await self.services[0].tables.clear()
        self.model.reset()
        self.books.reset()
        self.shared_session = (await self.services[0].chat("Hello")).json()["session_id"]
        self.model.reset()
        await eventually(self.idle)
        self.books.reset()

    async def round(self, asks: Sequence[Ask]) -> None:
        """Ask everything at once; returns when every reader has an answer or has left."""
        self.model.gate = asyncio.Event()
        before = Counter(self.model.calls)
        readers = {asyncio.create_task(self._ask(ask)): ask for ask in asks}

        async def all_asked() -> bool:
            seen = self.model.calls - before
            return all(reader.done() or seen[ask.question.text] for reader, ask in readers.items())

        await eventually(all_asked)
        self.model.gate.set()
        await asyncio.gather(*readers)

    async def idle(self) -> bool:
        return self.books.requests >= len(self.sent) and all(turns.idle for turns in WatchedTurns.instances)

    async def _ask(self, ask: Ask) -> None:
        request_id = str(uuid.uuid4())
        self.sent[request_id] = ask.question
        headers = {"X-Request-ID": request_id}
        if ask.question.keyed:
            headers["Idempotency-Key"] = self.keys[ask.question]
        body = {"message": ask.question.text}
        if ask.question.continues:
            body["session_id"] = self.shared_session
        if ask.leaves:
            await self._leave(ask, headers, body)
            return
        client = self.services[ask.service].client
        path = "/chat/stream" if ask.streamed else "/chat"
        self.outcomes.append(outcome(ask, await client.post(path, json=body, headers=headers)))

    async def _leave(self, ask: Ask, headers: dict[str, str], body: dict[str, str]) -> None:
        url = self.services[ask.service].client.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        content = json.dumps(body)
        lines = {
            "Host": url.host,
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        before = self.model.calls[ask.question.text]
        writer.write(f"POST {'/chat/stream' if ask.streamed else '/chat'} HTTP/1.1\r\n{head}\r\n{content}".encode())
        await writer.drain()
        if ask.leaves == "sent":
            writer.write_eof()
            with suppress(ConnectionError):
                await reader.read()
            writer.close()
            return
        answered = asyncio.create_task(reader.read(1))

        async def far_enough() -> bool:
            asked = ask.leaves == "asked" and self.model.calls[ask.question.text] > before
            return asked or answered.done()

        await eventually(far_enough)
        answered.cancel()
        await asyncio.wait([answered])
        writer.transport.abort()

    async def check(self) -> None:
        """Wait until nothing is under way, ask each question with a key once more, and see that everything adds up."""
        await eventually(self.idle)
        self.model.plans = {}
        for question in self.keys:
            await self._ask(Ask(question, streamed=False, service=question.number % 2, leaves=None))
            assert self.outcomes[-1].status == 200, self.outcomes[-1]
        await eventually(self.idle)
        assert self.books.errors == []

        rows = [m for m in await self.services[0].tables.messages() if not m.content.endswith("Hello")]
        self._check_rows(rows)
        self._check_answers(rows)
        self._check_calls(rows)
        await self._check_conversations(rows)

    def _check_rows(self, rows: Sequence[Message]) -> None:
        """Each reply belongs to one question, and is an answer to it that the model has given in full."""
        questions = {uuid.uuid5(m.id, "reply"): m for m in rows if m.role is MessageRole.user}
        for reply in (m for m in rows if m.role is MessageRole.assistant):
            question = questions[reply.id]
            assert question.session_id == reply.session_id
            assert re.fullmatch(rf"Answer \d+ to: {question.content}", reply.content)
            assert reply.created_at > question.created_at
        asked = Counter(question.text for question in self.sent.values())
        written = Counter(question.content for question in questions.values())
        for each in set(self.sent.values()):
            assert written[each.text] <= (1 if each.keyed else asked[each.text])
        contents = [m.content for m in rows if m.role is MessageRole.assistant]
        assert len(contents) == len(set(contents))

    def _check_answers(self, rows: Sequence[Message]) -> None:
        """Whoever was told an answer was told one that is recorded, and nobody was told another's."""
        stored = {m.content: m for m in rows if m.role is MessageRole.assistant}
        told: dict[str, set[str]] = defaultdict(set)
        for outcome in self.outcomes:
            question = outcome.ask.question
            if outcome.answer is None:
                allowed = {500} | ({409} if question.keyed else set()) | ({200} if outcome.ask.streamed else set())
                assert outcome.status in allowed, outcome
                codes = {"turn_in_progress"} if outcome.status == 409 else MODEL_FAILURES
                assert outcome.code in codes, outcome
                assert question.text in {m.content for m in rows}
                continue
            reply = stored[outcome.answer["response"]]
            assert reply.content.endswith(f" to: {question.text}")
            assert outcome.answer == {
                "response": reply.content,
                "session_id": str(reply.session_id),
                "timestamp": outcome.answer["timestamp"],
                **({"message_id": str(reply.id), "sources": []} if outcome.ask.streamed else {}),
            }
            assert datetime.fromisoformat(outcome.answer["timestamp"]) == reply.created_at
            assert (outcome.answer["session_id"] == self.shared_session) is question.continues
            if outcome.ask.streamed:
                assert "".join(outcome.deltas) == reply.content
                assert outcome.session == outcome.answer["session_id"]
            # Without a key each answer is an answer of its own; with one they are all the same.
            assert question.keyed or reply.content not in told[question.text]
            told[question.text].add(reply.content)
        for question in self.keys:
            assert len(told[question.text]) == 1

    def _check_calls(self, rows: Sequence[Message]) -> None:
        """The model was asked once for each attempt, and not again once it had answered."""
        statuses: dict[Question, list[object]] = defaultdict(list)
        for request_id, question in self.sent.items():
            assert len(self.books.calls[request_id]) <= 1
            statuses[question] += self.books.calls[request_id]
        replies = Counter(re.sub(r"^Answer \d+ to: ", "", m.content) for m in rows if m.role is MessageRole.assistant)
        for question, ended in statuses.items():
            assert self.model.calls[question.text] <= len(ended)
            assert ended.count("ok") == replies[question.text]
            assert not question.keyed or ended.count("ok") == 1
        for *history, question_text in self.model.prompts:
            assert question_text not in history or question_text in self._asked_without_a_key()

    def _asked_without_a_key(self) -> set[str]:
        return {question.text for question in self.sent.values() if not question.keyed}

    async def _check_conversations(self, rows: Sequence[Message]) -> None:
        """What is read back is what is recorded, each reply right after its question."""
        client = self.services[1].client
        replies = {m.reply_to: m for m in rows}
        questions = [m for m in rows if m.role is MessageRole.user]
        for session_id in {m.session_id for m in rows}:
            page = (await client.get(f"/chat/{session_id}/messages", params={"limit": 100})).json()
            read = [m["id"] for m in page["data"] if not m["content"].endswith("Hello")]
            asked = [m for m in questions if m.session_id == session_id]
            turns = [(question, replies.get(question.id)) for question in asked]
            assert read == [str(m.id) for turn in turns for m in turn if m]
            self.books.requests -= 1


MODEL_FAILURES = {"openai_error", "openai_rate_limited", "openai_timeout"}


def outcome(ask: Ask, response: httpx2.Response) -> Outcome:
    if response.status_code != 200:
        return Outcome(ask, response.status_code, code=response.json()["error"]["code"])
    if not ask.streamed:
        return Outcome(ask, 200, answer=response.json())
    events = re.findall(r"^event: (\w+)\r?\ndata: (.+?)\r?$", response.text, re.MULTILINE)
    (first, session), *deltas, (last, ending) = [(name, json.loads(data)) for name, data in events]
    assert first == "session"
    assert {name for name, _ in deltas} == {"delta"}
    assert last in {"done", "error"}
    return Outcome(
        ask,
        200,
        answer=ending if last == "done" else None,
        code=ending["error"]["code"] if last == "error" else None,
        deltas=[delta["text"] for _, delta in deltas],
        session=session["session_id"],
    )


def random_schedules(count: int) -> settings:
    """Run a test with the same `count` schedules every time, or with DURABILITY_SCHEDULES new ones."""
    return settings(
        max_examples=MORE_SCHEDULES or count,
        derandomize=not MORE_SCHEDULES,
        database=None,
        deadline=None,
        # What fails hangs on timing as well: a smaller schedule would be another one.
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@pytest.mark.slow
@random_schedules(SCHEDULES)
@given(schedule=schedules())
async def test_rows_calls_and_answers_add_up(
    two_services: Sequence[Service], model: Model, books: Books, schedule: list[list[Ask]]
) -> None:
    run = Schedule(two_services, model, books, {ask.question for asks in schedule for ask in asks})
    await run.begin()
    model.plans = {ask.question.text: ask.question.model for asks in schedule for ask in asks}

    for asks in schedule:
        await run.round(asks)

    await run.check()
    for result in run.outcomes:
        event(f"{result.status} {result.code or ''}")


@pytest.fixture
async def model(model_server: FakeOpenAI) -> Model:
    model = Model()
    model_server.enqueue(*[model] * 50 * (MORE_SCHEDULES or SCHEDULES))  # More than there can be.
    return model


@pytest.fixture
async def two_services(serve: Serve, model: Model, monkeypatch: pytest.MonkeyPatch) -> list[Service]:
    WatchedTurns.instances = []
    monkeypatch.setattr("app.main.Turns", WatchedTurns)
    return [await serve(OPENAI_TIMEOUT_SECONDS=str(DEADLINE_SECONDS)) for _ in range(2)]


@pytest.fixture
def books(two_services: list[Service]) -> Iterator[Books]:
    """The log from the start of the services on, which set up logging themselves."""
    handler = Books()
    loggers = [logging.getLogger(name) for name in ("app", "uvicorn.error", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler
    for logger in loggers:
        logger.removeHandler(handler)
