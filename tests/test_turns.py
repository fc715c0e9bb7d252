"""Turns at the same time: in one session, after their readers left, beyond the limit, and in a deleted session."""

import asyncio
import gc
import json
import uuid
import weakref
from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest
from dirty_equals import IsPartialDict
from starlette.types import Message as AsgiMessage
from starlette.types import Receive, Scope, Send

from app.errors import DatabaseError, OverloadedError
from app.models import Message, MessageRole, utc_now
from app.turns import TurnMiddleware, Turns, finish_with_request
from tests.bodies import NOT_FOUND, OVERLOADED
from tests.conftest import ORIGIN, Serve, Service, eventually
from tests.events import all_events, events_of, streamed
from tests.fake_openai import FakeOpenAI, failure, held, stream
from tests.marks import on_postgresql
from tests.patience import PATIENCE_SECONDS


@pytest.fixture(params=["moving", "standing"])
def _clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock as usual, and one on which everything happens at the same time."""
    if request.param == "standing":
        now = utc_now()
        monkeypatch.setattr("app.conversations.utc_now", lambda: now)


# In one session.


@pytest.mark.usefixtures("_clock")
async def test_five_questions_at_once_in_one_session_get_five_answers(
    service: Service, model_server: FakeOpenAI
) -> None:
    opening = (await service.chat("Hello")).json()
    gate = asyncio.Event()
    model_server.enqueue(*[held(gate)] * 5)
    asked = [asyncio.create_task(service.chat(f"Question {n}?", session_id=opening["session_id"])) for n in range(5)]
    await model_server.wait_for_requests(6)
    gate.set()

    responses = await asyncio.gather(*asked)

    assert [response.status_code for response in responses] == [200] * 5
    assert {response.json()["session_id"] for response in responses} == {opening["session_id"]}
    rows = await service.tables.messages()
    assert len(rows) == 12
    questions = {m.content: m for m in rows if m.role is MessageRole.user}
    recorded = {m.id: m for m in rows if m.role is MessageRole.assistant}
    assert len(questions) == len(recorded) == 6
    for n, response in enumerate(responses):
        question = questions[f"Question {n}?"]
        reply = recorded[reply_id(question)]
        assert reply.content == response.json()["response"]
        assert reply.content.endswith(f" to: Question {n}?")
        assert reply.created_at == datetime.fromisoformat(response.json()["timestamp"])
        assert reply.created_at > question.created_at


@pytest.mark.usefixtures("_clock")
async def test_the_turn_after_five_at_once_sees_each_reply_right_after_its_question(
    service: Service, model_server: FakeOpenAI
) -> None:
    session_id = (await service.chat("Hello")).json()["session_id"]
    gate = asyncio.Event()
    model_server.enqueue(*[held(gate)] * 5)
    asked = [asyncio.create_task(service.chat(f"Question {n}?", session_id=session_id)) for n in range(5)]
    await model_server.wait_for_requests(6)
    gate.set()
    answers = {f"Question {n}?": response.json()["response"] for n, response in enumerate(await asyncio.gather(*asked))}

    await service.chat("And then?", session_id=session_id)

    _, *history, last = model_server.prompt
    assert last == {"role": "user", "content": "And then?"}
    assert [m["role"] for m in history] == ["user", "assistant"] * 5
    assert {q["content"]: a["content"] for q, a in zip(history[::2], history[1::2], strict=True)} == answers


@pytest.mark.usefixtures("_clock")
async def test_a_session_keeps_the_order_in_which_it_was_spoken(service: Service, model_server: FakeOpenAI) -> None:
    session_id = (await service.chat("0")).json()["session_id"]
    for n in (1, 3):
        await all_events(service, str(n), session_id=session_id)
        await service.chat(str(n + 1), session_id=session_id)

    await service.chat("5", session_id=session_id)

    spoken = [text for n in range(5) for text in (str(n), f"Answer {n + 1} to: {n}")]
    assert [m["content"] for m in model_server.prompt[1:]] == [*spoken, "5"]
    assert [m.content for m in await service.tables.messages()] == [*spoken, "5", "Answer 6 to: 5"]


def reply_id(question: Message) -> uuid.UUID:
    return uuid.uuid5(question.id, "reply")


@pytest.mark.usefixtures("_clock")
async def test_of_two_at_once_with_one_key_one_asks_the_model(service: Service, model_server: FakeOpenAI) -> None:
    service.client.headers["Idempotency-Key"] = str(uuid.uuid4())
    gate = asyncio.Event()
    model_server.enqueue(held(gate))
    first = asyncio.create_task(service.chat())
    await model_server.wait_for_requests(1)

    second = await service.chat()
    gate.set()

    assert (second.status_code, second.json()["error"]["code"]) == (409, "turn_in_progress")
    assert (await first).status_code == 200
    assert len(model_server.requests) == 1


# Readers who leave.


class Reader:
    """One request on a connection of its own, which can be left."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def ask(cls, service: Service, path: str = "/chat", message: str = "Why?") -> "Reader":
        url = service.client.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        body = json.dumps({"message": message})
        head = f"POST {path} HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        await writer.drain()
        return cls(reader, writer)

    async def close(self) -> None:
        """Say goodbye, and wait until the service has hung up as well."""
        self._writer.write_eof()
        with suppress(ConnectionError):
            await self._reader.read()
        self._writer.close()

    async def vanish(self) -> None:
        """Reset the connection."""
        self._writer.transport.abort()


@pytest.mark.parametrize("leave", [Reader.close, Reader.vanish])
async def test_the_answer_to_a_reader_who_leaves_while_the_model_thinks_is_recorded(
    service: Service, model_server: FakeOpenAI, leave: Any
) -> None:
    gate = asyncio.Event()
    model_server.enqueue(held(gate))
    reader = await Reader.ask(service)
    await model_server.wait_for_requests(1)

    await leave(reader)
    await service.client.get("/health")  # By now the service knows.
    gate.set()

    await eventually(service.tables.replies)
    question, reply = await service.tables.messages()
    assert (question.content, reply.content) == ("Why?", "Answer 1 to: Why?")
    assert reply.id == reply_id(question)


@on_postgresql
async def test_the_failure_of_a_stream_that_was_left_before_its_first_piece_is_in_the_log(
    service: Service, model_server: FakeOpenAI
) -> None:
    before, after = asyncio.Event(), asyncio.Event()
    model_server.enqueue(held(before, stream("It ", "walks.", gate=after, finish_reason=None)))
    reader = await Reader.ask(service, "/chat/stream")
    await model_server.wait_for_requests(1)

    await reader.close()
    before.set()
    await eventually(lambda: service.logged("request"))
    after.set()

    await eventually(lambda: service.logged("openai.error"))
    assert [m.content for m in await service.tables.messages()] == ["Why?"]


@on_postgresql
@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
async def test_a_flood_of_leavers_stays_within_the_limit(serve: Serve, model_server: FakeOpenAI, path: str) -> None:
    service = await serve(MAX_CONCURRENT_TURNS="3")
    gate = asyncio.Event()
    model_server.enqueue(*[held(gate)] * 12)

    for n in range(12):
        reader = await Reader.ask(service, path, f"Question {n}?")
        await model_server.wait_for_requests(min(n + 1, 3))
        await reader.close()

    async def refused() -> bool:
        return len([r for r in service.log("request") if r["status"] == 503]) == 9

    await eventually(refused)
    assert len(model_server.requests) == 3
    gate.set()

    async def answered() -> bool:
        return len(await service.tables.replies()) == 3

    await eventually(answered)
    assert len(model_server.requests) == 3
    assert len(await service.tables.messages()) == 6


# Overload.


@pytest.fixture
async def full_service(serve: Serve, model_server: FakeOpenAI, gate: asyncio.Event) -> Service:
    """A service that takes two turns and has two, both held at the model."""
    service = await serve(MAX_CONCURRENT_TURNS="2")
    model_server.enqueue(held(gate), held(gate))
    return service


@pytest.fixture
async def gate() -> asyncio.Event:
    return asyncio.Event()


@on_postgresql
@pytest.mark.parametrize("path", ["/chat", "/chat/stream"])
async def test_a_turn_too_many_is_refused_at_once_and_leaves_no_trace(
    full_service: Service, model_server: FakeOpenAI, gate: asyncio.Event, path: str
) -> None:
    service = full_service
    under_way = [
        asyncio.create_task(service.chat("One?")),
        asyncio.create_task(all_events(service, "Two?")),
    ]
    await model_server.wait_for_requests(2)

    refused = await service.client.post(path, json={"message": "Three?"}, headers={"Origin": ORIGIN})

    assert refused.status_code == 503
    assert refused.json() == OVERLOADED
    assert dict(refused.headers) == IsPartialDict(
        {
            "retry-after": "1",
            "content-type": "application/json",
            "access-control-allow-origin": ORIGIN,
            "access-control-expose-headers": "Retry-After, X-Request-ID",
        }
    )
    assert not any(turn.done() for turn in under_way)
    gate.set()
    await asyncio.gather(*under_way)
    assert {m.content for m in await service.tables.messages() if m.role is MessageRole.user} == {"One?", "Two?"}
    assert len(await service.tables.sessions()) == 2
    assert len(model_server.requests) == 2


@on_postgresql
async def test_once_turns_have_ended_there_is_room_again(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(MAX_CONCURRENT_TURNS="1")
    gate = asyncio.Event()
    model_server.enqueue(held(gate), failure(500))
    first = asyncio.create_task(service.chat("One?"))
    await model_server.wait_for_requests(1)
    refused = await service.chat("Two?")
    gate.set()

    statuses = [(await first).status_code, *[(await service.chat("Two?")).status_code for _ in range(2)]]

    assert refused.status_code == 503
    assert statuses == [200, 500, 200]
    assert (await all_events(service))[-1][0] == "done"


@on_postgresql
async def test_a_refused_turn_with_a_key_can_be_asked_again(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(MAX_CONCURRENT_TURNS="1")
    gate, key = asyncio.Event(), {"Idempotency-Key": str(uuid.uuid4())}
    model_server.enqueue(held(gate))
    first = asyncio.create_task(service.chat("One?"))
    await model_server.wait_for_requests(1)

    refused = await service.client.post("/chat", json={"message": "Two?"}, headers=key)
    gate.set()
    await first
    answered = await service.client.post("/chat", json={"message": "Two?"}, headers=key)

    assert (refused.status_code, answered.status_code) == (503, 200)
    assert answered.json()["response"] == "Answer 2 to: Two?"


# A session that is deleted.


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "5bd1ae1d-4c8a-4f3b-9d5c-0d7c0d6e7a10"}], ids=["plain", "key"])
async def test_a_turn_whose_session_is_deleted_ends_in_not_found_and_leaves_no_row(
    service: Service, model_server: FakeOpenAI, key: dict[str, str]
) -> None:
    session_id = (await service.chat()).json()["session_id"]
    gate = asyncio.Event()
    model_server.enqueue(held(gate))
    body = {"message": "Why?", "session_id": session_id}
    asked = asyncio.create_task(service.client.post("/chat", json=body, headers=key))
    await model_server.wait_for_requests(2)
    await eventually(lambda: service.has_recorded("Why?"))

    deleted = await service.client.delete(f"/chat/{session_id}")
    gate.set()

    response = await asked
    assert deleted.status_code == 204
    assert response.status_code == 404
    assert response.json() == NOT_FOUND
    assert (await service.tables.sessions(), await service.tables.messages()) == ([], [])


async def test_a_stream_whose_session_is_deleted_ends_in_not_found_and_leaves_no_row(
    service: Service, model_server: FakeOpenAI
) -> None:
    gate = asyncio.Event()
    model_server.enqueue(stream("It ", "walks.", gate=gate))

    async with streamed(service) as response:
        events = events_of(response)
        (_, session), delta = await anext(events), await anext(events)
        deleted = await service.client.delete(f"/chat/{session['session_id']}")
        gate.set()
        ending = [event async for event in events]

    assert delta == ("delta", {"text": "It "})
    assert deleted.status_code == 204
    assert ending == [("delta", {"text": "walks."}), ("error", NOT_FOUND)]
    assert (await service.tables.sessions(), await service.tables.messages()) == ([], [])


@on_postgresql
async def test_a_question_whose_session_was_deleted_can_be_asked_again_with_its_key(
    service: Service, model_server: FakeOpenAI
) -> None:
    session_id = (await service.chat()).json()["session_id"]
    gate = asyncio.Event()
    model_server.enqueue(held(gate))
    service.client.headers["Idempotency-Key"] = str(uuid.uuid4())
    asked = asyncio.create_task(service.chat("Why?", session_id=session_id))
    await model_server.wait_for_requests(2)
    await service.client.delete(f"/chat/{session_id}")
    gate.set()
    await asked

    again = [await service.chat("Why?", session_id=session_id) for _ in range(2)]

    assert [response.status_code for response in again] == [200, 200]
    assert again[0].json() == again[1].json()
    assert again[0].json()["session_id"] != session_id
    assert [m.content for m in await service.tables.messages()] == ["Why?", "Answer 3 to: Why?"]
    assert [m["content"] for m in model_server.prompt[1:]] == ["Why?"]


# The turns themselves.


async def answer(gate: asyncio.Event) -> str:
    await gate.wait()
    return "An answer"


async def test_no_more_turns_start_than_the_limit() -> None:
    turns, gate = Turns(limit=2, grace_seconds=600), asyncio.Event()
    under_way = [turns.start(answer(gate)) for _ in range(2)]

    with pytest.raises(OverloadedError) as refused:
        turns.start(answer(gate))
    with pytest.raises(OverloadedError):
        await turns.run(answer(gate))

    assert refused.value.retry_after == "1"
    gate.set()
    assert await asyncio.gather(*under_way) == ["An answer"] * 2
    assert await turns.run(answer(gate)) == "An answer"


async def test_a_turn_that_failed_makes_room() -> None:
    turns = Turns(limit=1, grace_seconds=600)

    async def fail() -> None:
        raise LookupError

    for _ in range(2):
        with pytest.raises(LookupError):
            await turns.run(fail())


async def test_a_turn_outlives_its_caller() -> None:
    turns, gate = Turns(limit=1, grace_seconds=600), asyncio.Event()
    ended: list[str] = []

    async def turn() -> None:
        ended.append(await answer(gate))

    caller = asyncio.create_task(turns.run(turn()))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    gate.set()
    await turns.close()

    assert caller.cancelled()
    assert ended == ["An answer"]


async def test_a_turn_that_cannot_clear_up_is_cut_off_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.turns.CLEARING_UP_SECONDS", 0)
    turns, never = Turns(limit=1, grace_seconds=0), asyncio.Event()

    async def turn() -> None:
        try:
            await never.wait()
        finally:
            await never.wait()

    task = turns.start(turn())
    await asyncio.sleep(0)
    await turns.close()

    ended, _ = await asyncio.wait([task], timeout=PATIENCE_SECONDS)
    assert ended
    with pytest.raises(OverloadedError):
        await task


async def no_message() -> AsgiMessage:
    raise AssertionError


async def send_nothing(message: AsgiMessage) -> None:
    raise AssertionError


async def test_a_request_ends_only_with_the_turns_that_it_began() -> None:
    turns, gate, left = Turns(limit=2, grace_seconds=600), asyncio.Event(), asyncio.Event()

    async def begin_and_leave(scope: Scope, receive: Receive, send: Send) -> None:
        turns.start(answer(gate))
        left.set()

    others = turns.start(answer(asyncio.Event()))
    request = asyncio.create_task(TurnMiddleware(begin_and_leave)({}, no_message, send_nothing))
    await left.wait()
    before = await asyncio.wait([request], timeout=0)
    gate.set()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await request
    others.cancel()

    assert before == (set(), {request})


async def test_closing_lets_turns_end_within_the_grace_also_those_that_begin_in_it() -> None:
    turns, gates = Turns(limit=9, grace_seconds=600), [asyncio.Event(), asyncio.Event()]
    under_way = turns.start(answer(gates[0]))
    closing = asyncio.create_task(turns.close())
    await asyncio.sleep(0)

    late = turns.start(answer(gates[1]))
    gates[0].set()
    await under_way
    assert not closing.done()
    gates[1].set()
    await closing

    assert (under_way.result(), late.result()) == ("An answer", "An answer")
    with pytest.raises(OverloadedError):
        turns.start(answer(gates[0]))


async def test_an_end_does_not_wait_for_the_grace() -> None:
    turns = Turns(limit=9, grace_seconds=600)
    under_way = turns.start(answer(asyncio.Event()))
    closing = asyncio.create_task(turns.close())
    await asyncio.sleep(0)

    async with asyncio.timeout(PATIENCE_SECONDS):
        await turns.end()
        await closing

    assert isinstance(under_way.exception(), OverloadedError)


async def test_what_outlasts_the_grace_is_cut_off_and_its_reader_told() -> None:
    turns = Turns(limit=9, grace_seconds=0)
    under_way = turns.start(answer(asyncio.Event()))
    await asyncio.sleep(0)

    await turns.close()

    assert isinstance(under_way.exception(), OverloadedError)


@pytest.mark.parametrize("headers", [{}, {"Idempotency-Key": str(uuid.uuid4())}], ids=["without a key", "with a key"])
async def test_a_question_that_is_cut_off_is_not_shown_as_being_answered(
    serve: Serve, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    of_the_service: list[Turns] = []

    def make_turns(**how: Any) -> Turns:
        of_the_service.append(Turns(**how))
        return of_the_service[-1]

    monkeypatch.setattr("app.main.Turns", make_turns)
    service = await serve()
    model_server.enqueue(held(asyncio.Event()))
    asking = asyncio.create_task(service.client.post("/chat", json={"message": "Why?"}, headers=headers))
    await eventually(service.tables.messages)
    [question] = await service.tables.messages()
    assert question.answering_until is not None

    await of_the_service[0].end()

    assert (await asking).json() == OVERLOADED
    [question] = await service.tables.messages()
    assert question.answering_until is None
    with pytest.raises(OverloadedError):
        of_the_service[0].start(answer(asyncio.Event()))


async def test_closing_again_interrupts_no_turn_that_clears_up() -> None:
    turns, clearing_up, gate = Turns(limit=9, grace_seconds=0), asyncio.Event(), asyncio.Event()
    cleared_up: list[str] = []

    async def turn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            clearing_up.set()
            cleared_up.append(await answer(gate))

    under_way = turns.start(turn())
    await asyncio.sleep(0)
    closings = [asyncio.create_task(turns.close())]
    await clearing_up.wait()
    closings.append(asyncio.create_task(turns.close()))
    asyncio.get_running_loop().call_later(0.05, gate.set)
    await asyncio.gather(*closings)

    assert isinstance(under_way.exception(), OverloadedError)
    assert cleared_up == ["An answer"]


async def test_closing_does_not_wait_for_ever_for_a_turn_that_clears_up(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, begun, gate = Turns(limit=9, grace_seconds=0), asyncio.Event(), asyncio.Event()

    async def clear_up_for_ever() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await gate.wait()

    monkeypatch.setattr("app.turns.CLEARING_UP_SECONDS", 0.05)
    stubborn = turns.start(clear_up_for_ever())
    await begun.wait()

    async with asyncio.timeout(PATIENCE_SECONDS):
        await turns.close()

    assert not stubborn.done()
    gate.set()
    with pytest.raises(OverloadedError):
        await stubborn


async def test_a_turn_that_fails_after_its_caller_was_cancelled_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    turns, gate = Turns(limit=1, grace_seconds=5), asyncio.Event()

    async def fail() -> None:
        await gate.wait()
        raise DatabaseError

    caller = asyncio.create_task(turns.run(fail()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    gate.set()
    await turns.close()
    await asyncio.sleep(0)
    gc.collect()

    assert caller.cancelled()
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == ["database.error"]


async def test_an_answer_does_not_stay_in_memory_when_its_request_has_ended() -> None:
    turns = Turns(limit=1, grace_seconds=0)

    class Answer:
        pass

    kept: list[weakref.ref[Answer]] = []

    async def answer() -> Answer:
        made = Answer()
        kept.append(weakref.ref(made))
        return made

    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        await turns.run(answer())

    async def nothing(*_: object) -> Any:
        pass

    gc.disable()
    try:
        await asyncio.create_task(TurnMiddleware(app)({"type": "http"}, nothing, nothing))
        await asyncio.sleep(0)
        assert kept[0]() is None
    finally:
        gc.enable()


async def test_a_request_ends_only_when_what_its_turn_has_left_behind_has_ended() -> None:
    begun, gate, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def finish() -> None:
        await asyncio.sleep(0)
        finished.set()

    async def turn() -> None:
        begun.set()
        await gate.wait()
        finish_with_request(asyncio.create_task(finish()))

    async def leave(_scope: Scope, _receive: Receive, _send: Send) -> None:
        finish_with_request(asyncio.create_task(turn()))

    async def nothing(*_: object) -> Any:
        raise AssertionError

    request = asyncio.create_task(TurnMiddleware(leave)({}, nothing, nothing))
    await begun.wait()
    gate.set()
    await request

    assert finished.is_set()
