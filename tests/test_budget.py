"""`DAILY_TOKEN_BUDGET`: what the answers of a day may cost, whoever asks, in one process or in several."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from dirty_equals import IsUUID
from sqlalchemy import insert, text
from sqlmodel import col, select

from app.models import TokenUsage, utc_now
from tests.conftest import Serve, Service, eventually
from tests.fake_openai import FakeOpenAI, completion, failure, json_body, stream
from tests.kept import with_own_connections
from tests.marks import on_one_database
from tests.patience import PATIENCE_SECONDS

TOKENS = 18
"""What an answer of the fake costs."""
EXHAUSTED = {
    "error": {
        "code": "budget_exhausted",
        "message": "The assistant has answered as much as it may for today. Please ask again tomorrow.",
        "request_id": IsUUID(4),
        "retryable": True,
    }
}


async def recorded(service: Service) -> int:
    """Return how many tokens the database says were spent."""
    async with service.tables.engine.connect() as connection:
        return sum((await connection.execute(select(col(TokenUsage.tokens)))).scalars())


async def recorded_as(service: Service, tokens: int) -> None:
    async def is_recorded() -> bool:
        return await recorded(service) == tokens

    await eventually(is_recorded)


def assert_exhausted(response: httpx2.Response) -> None:
    assert (response.status_code, response.json()) == (429, EXHAUSTED)
    until_midnight = datetime.combine(utc_now().date() + timedelta(days=1), datetime.min.time(), UTC) - utc_now()
    assert abs(int(response.headers["retry-after"]) - until_midnight.total_seconds()) < 30


async def test_when_the_tokens_of_the_day_are_spent_questions_are_refused(
    serve: Serve, model_server: FakeOpenAI
) -> None:
    service = await serve(DAILY_TOKEN_BUDGET=str(2 * TOKENS))
    answered = [(await service.chat()).status_code for _ in range(2)]

    refused = [await service.client.post(path, json={"message": "Why?"}) for path in ("/chat", "/chat/stream")]

    assert answered == [200, 200]
    for response in refused:
        assert_exhausted(response)
    assert len(model_server.requests) == 2
    assert len(await service.tables.messages()) == 4


async def test_a_recorded_answer_is_had_again_when_the_budget_is_spent(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(DAILY_TOKEN_BUDGET="1")
    request: dict[str, Any] = {"json": {"message": "Why?"}, "headers": {"Idempotency-Key": str(uuid.uuid4())}}
    first = await service.client.post("/chat", **request)

    again = await service.client.post("/chat", **request)

    assert (again.status_code, again.json()) == (200, first.json())
    assert_exhausted(await service.chat())


async def test_what_a_process_has_spent_counts_in_others_and_after_its_end(
    serve: Serve, model_server: FakeOpenAI
) -> None:
    first, second = [await serve(DAILY_TOKEN_BUDGET=str(3 * TOKENS)) for _ in range(2)]
    assert (await second.chat()).status_code == 200
    assert [(await first.chat()).status_code for _ in range(2)] == [200, 200]
    await recorded_as(first, 3 * TOKENS)

    third = await serve(DAILY_TOKEN_BUDGET=str(3 * TOKENS))

    assert_exhausted(await third.chat())
    assert_exhausted(await first.chat())


async def test_what_a_process_has_spent_itself_is_counted_once(
    serve: Serve, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.budget._REFRESH_SECONDS", 0)
    service = await serve(DAILY_TOKEN_BUDGET=str(4 * TOKENS))

    for answered in range(1, 5):
        assert (await service.chat()).status_code == 200
        await recorded_as(service, answered * TOKENS)

    assert_exhausted(await service.chat())


async def test_deleting_a_conversation_gives_no_tokens_back(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(DAILY_TOKEN_BUDGET=str(TOKENS))
    session_id = (await service.chat()).json()["session_id"]
    await recorded_as(service, TOKENS)

    await service.client.delete(f"/chat/{session_id}")

    assert_exhausted(await (await serve()).chat())


async def test_a_new_day_has_its_own_tokens(
    serve: Serve, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await serve(DAILY_TOKEN_BUDGET=str(TOKENS))
    async with service.tables.engine.begin() as connection:
        yesterday = utc_now().date() - timedelta(days=1)
        await connection.execute(insert(TokenUsage).values(day=yesterday, process=uuid.uuid4(), tokens=1_000))
    assert [(await service.chat()).status_code for _ in range(2)] == [200, 429]

    monkeypatch.setattr("app.budget.utc_now", lambda: utc_now() + timedelta(days=1))

    assert [(await service.chat()).status_code for _ in range(2)] == [200, 429]


async def test_a_server_that_does_not_count_is_counted_by_what_it_was_sent_and_said(
    serve: Serve, model_server: FakeOpenAI
) -> None:
    service = await serve(DAILY_TOKEN_BUDGET="1000000")
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x" * 40_000}}
    model_server.enqueue(json_body({"choices": [choice]}))

    await service.chat("y" * 4_000)

    await eventually(lambda: recorded(service))
    assert 11_000 < await recorded(service) < 12_500


async def test_streamed_answers_count_too(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(DAILY_TOKEN_BUDGET="1")
    model_server.enqueue(stream("It walks."))
    async with service.client.stream("POST", "/chat/stream", json={"message": "Why?"}) as response:
        await response.aread()

    assert_exhausted(await service.chat())


async def test_a_turn_takes_no_statement_more(serve: Serve, model_server: FakeOpenAI) -> None:
    statements = []
    for environment in ({}, {"DAILY_TOKEN_BUDGET": "1000000"}):
        service = await serve(**environment)
        for _ in range(2):
            await service.chat()
        statements.append([record["database_statements"] for record in service.log("request")])

    assert len(statements[0]) == 2
    assert statements[0] == statements[1]


async def test_without_a_budget_nothing_is_counted(service: Service, model_server: FakeOpenAI) -> None:
    await service.chat()

    assert await recorded(service) == 0


@on_one_database
async def test_a_database_that_does_not_count_is_left_alone_for_a_while(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(DAILY_TOKEN_BUDGET="1000000")
    model_server.enqueue(*[failure(500)] * 2)  # They cost nothing, so that nothing is to be written.
    async with service.tables.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE token_usage RENAME TO away"))
    try:
        for _ in range(2):
            await service.chat()
    finally:
        async with service.tables.engine.begin() as connection:
            await connection.execute(text("ALTER TABLE away RENAME TO token_usage"))

    assert len(service.log("budget.unrecorded")) == 1


@on_one_database
async def test_tables_that_are_locked_hold_up_a_turn_for_a_moment(
    serve: Serve, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.budget._FIRST_SECONDS", 0.1)
    monkeypatch.setattr("app.pause._WAIT_SECONDS", 0.1)
    monkeypatch.setattr("app.database.COMMAND_TIMEOUT_SECONDS", 300)  # What waits for the table itself waits this long.
    service = await serve(DATABASE_URL=with_own_connections(database_url), DAILY_TOKEN_BUDGET="1000000")
    async with service.tables.engine.connect() as locking:
        await locking.execute(text("LOCK TABLE token_usage, pauses IN ACCESS EXCLUSIVE MODE"))

        async with asyncio.timeout(PATIENCE_SECONDS):
            answers = [
                await service.client.post("/chat/stream", json={"message": "Why?"}, timeout=None) for _ in range(2)
            ]
    assert [answer.status_code for answer in answers] == [200, 200]


async def test_a_database_that_does_not_count_loses_no_answer_and_no_token(
    serve: Serve, model_server: FakeOpenAI
) -> None:
    service = await serve(DAILY_TOKEN_BUDGET=str(3 * TOKENS))
    await service.chat()
    await recorded_as(service, TOKENS)
    async with service.tables.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE token_usage RENAME TO away"))
    try:
        model_server.enqueue(completion("It walks."))
        answer = await service.chat()
        await eventually(lambda: service.logged("budget.unrecorded"))
    finally:
        async with service.tables.engine.begin() as connection:
            await connection.execute(text("ALTER TABLE away RENAME TO token_usage"))

    assert answer.json()["response"] == "It walks."
    assert (await service.chat()).status_code == 200
    await recorded_as(service, 3 * TOKENS)
    assert_exhausted(await service.chat())
