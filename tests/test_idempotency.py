"""`Idempotency-Key`: asking again is safe."""

import asyncio
import uuid
from datetime import datetime, timedelta, tzinfo
from typing import Any, override

import httpx2
import pytest
from dirty_equals import IsUUID
from sqlalchemy import delete, text
from sqlmodel import col

from app.models import Message, MessageRole
from app.retrieval import RETRIEVAL_TIMEOUT_SECONDS
from tests.bodies import NOT_FOUND
from tests.conftest import Serve, Service
from tests.events import all_events, events_of
from tests.fake_openai import FakeOpenAI, completion, cut, failure, held, stall, stream
from tests.marks import on_one_database


async def ask(service: Service, key: str, message: str = "Why?", **fields: Any) -> httpx2.Response:
    return await service.client.post("/chat", json={"message": message, **fields}, headers={"Idempotency-Key": key})


def new_key() -> str:
    return str(uuid.uuid4())


async def test_the_same_request_again_gets_the_recorded_answer(service: Service, model_server: FakeOpenAI) -> None:
    key = new_key()

    first, second = await ask(service, key), await ask(service, key)

    assert first.status_code == second.status_code == 200
    assert first.json() == second.json()
    assert len(model_server.requests) == 1
    assert [m.role for m in await service.tables.messages()] == [MessageRole.user, MessageRole.assistant]
    assert len(await service.tables.sessions()) == 1


async def test_it_holds_in_a_known_session_and_for_a_selected_text(service: Service, model_server: FakeOpenAI) -> None:
    session_id = (await service.chat()).json()["session_id"]
    key, other_key = new_key(), new_key()

    plain = [await ask(service, key, session_id=session_id) for _ in range(2)]
    excerpt = [await ask(service, other_key, session_id=session_id, selected_text="Because.") for _ in range(2)]

    assert plain[0].json() == plain[1].json()
    assert excerpt[0].json() == excerpt[1].json()
    assert plain[0].json()["session_id"] == session_id
    assert len(model_server.requests) == 3


async def test_the_key_may_have_the_quotes_of_a_structured_field(service: Service, model_server: FakeOpenAI) -> None:
    key = new_key()

    assert (await ask(service, f'"{key}"')).json() == (await ask(service, key.upper())).json()
    assert len(model_server.requests) == 1


@on_one_database
@pytest.mark.parametrize("key", ["", "abc", "1234567890", '"', "a" * 1000])
async def test_a_key_that_is_no_uuid_is_refused(service: Service, model_server: FakeOpenAI, key: str) -> None:
    response = await ask(service, key)

    assert response.status_code == 400
    assert response.json()["error"]["details"] == [{"field": "idempotency-key", "reason": "must be a UUID"}]
    assert model_server.requests == []


async def test_a_stream_and_a_plain_request_share_the_answer(service: Service, model_server: FakeOpenAI) -> None:
    key = new_key()
    plain = (await ask(service, key)).json()
    service.client.headers["Idempotency-Key"] = key

    events = await all_events(service)

    assert events == [
        ("session", {"session_id": plain["session_id"]}),
        ("delta", {"text": plain["response"]}),
        ("done", {**plain, "message_id": IsUUID(5), "sources": []}),
    ]
    assert len(model_server.requests) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"message": "Why not?"},
        {"selected_text": "Because."},
        {"session_id": "00000000-0000-4000-8000-000000000000"},
    ],
)
async def test_the_key_of_another_request_is_a_conflict(
    service: Service, model_server: FakeOpenAI, changed: dict[str, str]
) -> None:
    key = new_key()
    await ask(service, key)

    response = await ask(service, key, **{"message": "Why?", **changed})

    assert (response.status_code, response.json()["error"]["code"]) == (409, "idempotency_conflict")
    assert len(model_server.requests) == 1


async def test_a_key_of_one_session_is_a_conflict_in_another(service: Service, model_server: FakeOpenAI) -> None:
    one, two = [(await service.chat()).json()["session_id"] for _ in range(2)]
    key = new_key()
    await ask(service, key, session_id=one)

    assert (await ask(service, key, session_id=two)).json()["error"]["code"] == "idempotency_conflict"
    assert (await ask(service, key)).json()["error"]["code"] == "idempotency_conflict"


@pytest.mark.parametrize("changed", [{"message": "Why not?"}, {"selected_text": "Because."}, {"selected_text": None}])
async def test_a_key_of_another_request_in_the_same_session_is_a_conflict(
    service: Service, model_server: FakeOpenAI, changed: dict[str, str | None]
) -> None:
    session_id = (await service.chat()).json()["session_id"]
    request = {"message": "Why?", "selected_text": "It walks.", "session_id": session_id}
    key = new_key()
    await ask(service, key, **request)

    response = await ask(service, key, **{**request, **changed})

    assert (response.status_code, response.json()["error"]["code"]) == (409, "idempotency_conflict")
    assert len(model_server.requests) == 2


async def test_a_session_id_that_utf8_cannot_carry_begins_a_new_session(
    service: Service, model_server: FakeOpenAI
) -> None:
    headers = {"Idempotency-Key": new_key(), "Content-Type": "application/json"}

    one, two = [
        await service.client.post("/chat", content=b'{"message": "Why?", "session_id": "\\ud800"}', headers=headers)
        for _ in range(2)
    ]

    assert one.status_code == 200
    assert one.json() == two.json()
    assert len(model_server.requests) == 1


async def test_a_claim_outlasts_the_models_deadline(serve: Serve, model_server: FakeOpenAI) -> None:
    service, gate = await serve(OPENAI_TIMEOUT_SECONDS="120"), asyncio.Event()
    model_server.enqueue(held(gate))
    asking = asyncio.create_task(ask(service, new_key()))
    await model_server.wait_for_requests(1)

    [question] = await service.tables.messages()
    gate.set()
    await asking

    assert question.answering_until is not None
    # The passages are looked up, and the answer is recorded, within the claim too.
    until_recorded = 120 + RETRIEVAL_TIMEOUT_SECONDS + 2
    assert question.answering_until - question.created_at >= timedelta(seconds=until_recorded)


async def test_a_turn_that_outlasts_its_claim_is_cut_off_and_can_be_repeated(
    service: Service, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key()
    monkeypatch.setattr("app.config._TURN_MARGIN_SECONDS", -29.5)
    model_server.enqueue(stall)

    cut_off = await ask(service, key)
    monkeypatch.undo()

    assert (cut_off.status_code, cut_off.json()["error"]["code"]) == (500, "database_error")
    assert (await ask(service, key)).status_code == 200


async def test_asking_again_while_the_first_is_under_way_is_turned_away(
    service: Service, model_server: FakeOpenAI
) -> None:
    key, gate = new_key(), asyncio.Event()
    model_server.enqueue(held(gate))
    first = asyncio.create_task(ask(service, key))
    await model_server.wait_for_requests(1)

    second = await ask(service, key)
    gate.set()

    assert (second.status_code, second.json()["error"]["code"]) == (409, "turn_in_progress")
    assert second.headers["retry-after"] == "1"
    answered = await first
    assert (await ask(service, key)).json() == answered.json()
    assert len(model_server.requests) == 1


async def test_of_many_at_once_one_asks_the_model(serve: Serve, model_server: FakeOpenAI) -> None:
    key = new_key()
    services = [await serve(), await serve()]

    responses = await asyncio.gather(*(ask(services[n % 2], key) for n in range(10)))

    answers = {r.json()["response"] for r in responses if r.status_code == 200}
    assert {r.json()["error"]["code"] for r in responses if r.status_code != 200} <= {"turn_in_progress"}
    assert len(model_server.requests) == 1
    assert answers == {(await ask(services[1], key)).json()["response"]}
    assert len(await services[0].tables.messages()) == 2


@pytest.mark.parametrize("fault", [failure(500), cut])
async def test_an_attempt_that_failed_can_be_repeated_at_once(
    service: Service, model_server: FakeOpenAI, fault: Any
) -> None:
    key = new_key()
    model_server.enqueue(fault)

    failed, repeated = await ask(service, key), await ask(service, key)

    assert (failed.status_code, repeated.status_code) == (500, 200)
    assert model_server.prompt[-1]["content"] == "Why?"
    assert [m["content"] for m in model_server.prompt].count("Why?") == 1
    assert [m.content for m in await service.tables.messages()] == ["Why?", repeated.json()["response"]]


async def test_an_attempt_whose_process_died_can_be_repeated_when_its_claim_has_run_out(
    service: Service, model_server: FakeOpenAI
) -> None:
    key, session_id = new_key(), (await service.chat("One?")).json()["session_id"]
    answered = (await ask(service, key, session_id=session_id)).json()
    await _forget_reply(service)

    while_claimed = await ask(service, key, session_id=session_id)
    await service.tables.expire_claims()
    repeated = await ask(service, key, session_id=session_id)

    assert while_claimed.json()["error"]["code"] == "turn_in_progress"
    assert repeated.status_code == 200
    assert repeated.json()["session_id"] == answered["session_id"]
    assert [m["content"] for m in model_server.prompt[1:]] == ["One?", "Answer 1 to: One?", "Why?"]
    assert len(await service.tables.messages()) == 4


async def test_a_claim_runs_out_by_the_clock_of_the_database(
    service: Service, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, gate = new_key(), asyncio.Event()
    model_server.enqueue(held(gate))
    first = asyncio.create_task(ask(service, key))
    await model_server.wait_for_requests(1)

    class ClockAhead(datetime):
        @classmethod
        @override
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(hours=1)

    monkeypatch.setattr("app.models.datetime", ClockAhead)
    again = await ask(service, key)
    gate.set()

    assert (await first).status_code == 200
    assert again.status_code == 409


async def test_an_attempt_that_outlived_its_claim_does_not_give_up_the_next_ones(
    service: Service, model_server: FakeOpenAI
) -> None:
    key, fail, answer = new_key(), asyncio.Event(), asyncio.Event()
    model_server.enqueue(held(fail, failure(500)), held(answer))
    outlived = asyncio.create_task(ask(service, key))
    await model_server.wait_for_requests(1)
    await service.tables.expire_claims()
    claimed = asyncio.create_task(ask(service, key))
    await model_server.wait_for_requests(2)

    fail.set()
    failed = await outlived
    turned_away = await ask(service, key)
    answer.set()

    assert failed.status_code == 500
    assert turned_away.json()["error"]["code"] == "turn_in_progress"
    assert (await claimed).json()["response"] == "Answer 2 to: Why?"
    assert len(model_server.requests) == 2


async def _forget_reply(service: Service) -> None:
    """Leave the tables as a process leaves them that dies between the two writes."""
    last = (await service.tables.messages())[-1]
    async with service.tables.engine.begin() as connection:
        await connection.execute(delete(Message).where(col(Message.id) == last.id))


async def test_a_stream_whose_session_is_deleted_does_not_name_the_one_in_which_another_request_answered(
    service: Service, model_server: FakeOpenAI
) -> None:
    session_id = (await service.chat()).json()["session_id"]
    key, gate = new_key(), asyncio.Event()
    model_server.enqueue(stream("It ", "walks.", gate=gate), completion("It walks."))
    body = {"message": "Why?", "session_id": session_id}

    async with service.client.stream("POST", "/chat/stream", json=body, headers={"Idempotency-Key": key}) as response:
        events = events_of(response)
        beginning = [await anext(events), await anext(events)]
        await service.client.delete(f"/chat/{session_id}")
        again = (await ask(service, key, session_id=session_id)).json()
        gate.set()
        ending = [event async for event in events]

    assert [name for name, _ in beginning] == ["session", "delta"]
    assert again["response"] == "It walks."
    assert again["session_id"] != session_id
    assert [(name, data.get("error", {}).get("code")) for name, data in ending] == [
        ("delta", None),
        ("error", "turn_in_progress"),
    ]


@on_one_database
async def test_a_reply_that_was_there_and_is_gone_is_no_answer(service: Service, model_server: FakeOpenAI) -> None:
    # As if a first try had arrived, its connection was lost, and the session was deleted before the second one looked.
    async with service.tables.engine.begin() as connection:
        for statement in (
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE unique_violation; END $$",
            "CREATE TRIGGER refuse BEFORE INSERT ON messages FOR EACH ROW WHEN (NEW.role = 'assistant') EXECUTE FUNCTION refuse()",
        ):
            await connection.execute(text(statement))
    try:
        response = await service.chat("Why?")
    finally:
        async with service.tables.engine.begin() as connection:
            await connection.execute(text("DROP FUNCTION refuse CASCADE"))

    assert (response.status_code, response.json()) == (404, NOT_FOUND)


async def test_without_a_key_the_same_question_is_asked_twice(service: Service, model_server: FakeOpenAI) -> None:
    await service.chat("Why?")
    await service.chat("Why?")

    assert len(model_server.requests) == 2
    assert len(await service.tables.sessions()) == 2
