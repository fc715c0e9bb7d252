"""The owner's pause: questions are refused in the owner's words, and nothing else is."""

import asyncio
import itertools
import time
import uuid
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from dirty_equals import IsUUID
from sqlalchemy import text

from app import dsn, pause
from app.database import Database
from tests.conftest import AdminCommand, Serve, Service, eventually
from tests.events import all_events
from tests.fake_openai import FakeOpenAI, held
from tests.marks import on_one_database

WORDS = "We are back at 18:00. ہم شام چھ بجے واپس آئیں گے"


@pytest.fixture(autouse=True)
def _at_every_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have minutes pass from one question to the next: the pause is read with each, so that nothing has to be waited for."""
    monkeypatch.setattr(pause, "time", SimpleNamespace(monotonic=itertools.count(step=60).__next__))


def paused(message: str = WORDS) -> dict[str, Any]:
    return {"error": {"code": "paused", "message": message, "request_id": IsUUID(4), "retryable": True}}


async def ask(service: Service, key: str, **fields: Any) -> httpx2.Response:
    return await service.client.post("/chat", json={"message": "Why?", **fields}, headers={"Idempotency-Key": key})


async def test_a_paused_service_refuses_questions_in_its_owners_words_until_it_is_resumed(
    serve: Serve, model_server: FakeOpenAI, admin_command: AdminCommand
) -> None:
    services = [await serve(), await serve()]
    for service in services:
        assert (await service.chat()).status_code == 200

    status, output = await admin_command("pause", "--message", f" {WORDS}\n")
    refused = [await service.chat() for service in services]
    streamed = await services[0].client.post("/chat/stream", json={"message": "Why?"})
    resumed = await admin_command("resume")

    assert (status, output) == (
        0,
        "Paused: within 5 seconds, every process refuses questions. To go on: python -m app.admin resume\n",
    )
    for response in [*refused, streamed]:
        assert (response.status_code, response.json()) == (503, paused())
        assert response.headers["retry-after"] == "60"
    assert len(model_server.requests) == 2
    assert len(await services[0].tables.messages()) == 4
    assert resumed == (0, "Questions are answered again within 5 seconds.\n")
    for service in services:
        assert (await service.chat()).status_code == 200
    # Both write to the log of the one that started last.
    events = [record["event"] for record in services[1].log() if record["event"].startswith("service.")]
    assert events == ["service.paused", "service.paused", "service.resumed", "service.resumed"]


async def test_the_rest_of_a_paused_service_goes_on(
    service: Service, model_server: FakeOpenAI, admin_command: AdminCommand
) -> None:
    answered, begun, gate = str(uuid.uuid4()), str(uuid.uuid4()), asyncio.Event()
    recorded = (await ask(service, answered)).json()
    model_server.enqueue(held(gate))
    running = asyncio.create_task(ask(service, begun))
    await model_server.wait_for_requests(2)

    await admin_command("pause")
    new, repeated = await ask(service, str(uuid.uuid4())), await ask(service, answered)
    service.client.headers["Idempotency-Key"] = answered
    events = await all_events(service)
    del service.client.headers["Idempotency-Key"]
    gate.set()

    assert new.json() == paused("The assistant is paused for the moment. Please ask again later.")
    assert repeated.json() == recorded
    assert [name for name, _ in events] == ["session", "delta", "done"]
    assert (await running).status_code == 200
    session = f"/chat/{recorded['session_id']}"
    page = (await service.client.get(f"{session}/messages")).json()["data"]
    rating = await service.client.put(f"{session}/messages/{page[1]['id']}/feedback", json={"rating": "positive"})
    regenerated = await service.client.post(f"{session}/messages/{page[1]['id']}/regenerate")
    assert (len(page), rating.status_code, regenerated.json()) == (
        2,
        204,
        paused(regenerated.json()["error"]["message"]),
    )
    assert (await service.client.get("/health/ready")).status_code == 200
    assert (await service.client.delete(session)).status_code == 204
    await admin_command("resume")


@on_one_database
async def test_a_question_that_was_recorded_before_the_pause_was_heard_of_is_answered_after_it(
    serve: Serve, model_server: FakeOpenAI, admin_command: AdminCommand
) -> None:
    service = await serve(RATE_LIMIT="2/day")
    key, session_id = str(uuid.uuid4()), (await service.chat()).json()["session_id"]
    await admin_command("pause")

    refused = await ask(service, key, session_id=session_id)
    await admin_command("resume")
    answered = await ask(service, key, session_id=session_id)

    assert (refused.status_code, answered.status_code) == (503, 200)  # What the pause refused is not counted.
    assert [m.content for m in await service.tables.messages()][2:] == ["Why?", "Answer 2 to: Why?"]


@on_one_database
async def test_chatkit_shows_the_owners_words(
    service: Service, model_server: FakeOpenAI, admin_command: AdminCommand
) -> None:
    await admin_command("pause", "--message", WORDS)
    item = {"content": [{"type": "input_text", "text": "Why?"}], "attachments": [], "inference_options": {}}

    response = await service.client.post("/chatkit", json={"type": "threads.create", "params": {"input": item}})
    await admin_command("resume")

    assert response.status_code == 200
    assert WORDS in response.text
    assert '"allow_retry":true' in response.text


@on_one_database
async def test_what_is_known_of_a_pause_is_read_beside_the_questions_and_seldom(
    service: Service, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pause, "time", time)
    reads = 0
    read = pause.read_pause

    async def counted(db: Any) -> Any:
        nonlocal reads
        reads += 1
        return await read(db)

    monkeypatch.setattr(pause, "read_pause", counted)
    await service.client.get("/health/ready")
    assert reads == 0
    for _ in range(3):
        await service.chat()

    assert reads == 1
    assert {record["database_statements"] for record in service.log("request")[1:]} == {3}


@on_one_database
async def test_questions_are_answered_if_the_pause_cannot_be_read(service: Service, model_server: FakeOpenAI) -> None:
    async with service.tables.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE pauses RENAME TO away"))
    try:
        without_table = await service.chat()
        async with service.tables.engine.begin() as connection:
            await connection.execute(text("CREATE VIEW pauses AS SELECT 1/0 AS id, '' AS message, now() AS began_at"))
        failing = await service.chat()
        await eventually(lambda: service.logged("pause.unread"))
    finally:
        async with service.tables.engine.begin() as connection:
            await connection.execute(text("DROP VIEW IF EXISTS pauses"))
            await connection.execute(text("ALTER TABLE away RENAME TO pauses"))

    assert (without_table.status_code, failing.status_code) == (200, 200)
    assert len(service.log("pause.unread")) == 1


async def test_other_words_for_a_pause_leave_its_beginning(database_url: str) -> None:
    database = Database(dsn.parse(database_url), pool_size=1)
    await pause.begin_pause(database, None)
    first = await pause.read_pause(database)
    await pause.begin_pause(database, WORDS)
    second = await pause.read_pause(database)
    await pause.end_pause(database)
    await database.close()

    assert first
    assert second == (WORDS, first.began_at)


@pytest.mark.parametrize("message", ["", " ", "x" * 501, "a\x00b"])
async def test_words_that_cannot_be_sent_are_refused(admin_command: AdminCommand, message: str) -> None:
    status, output = await admin_command("pause", "--message", message)

    assert status == 2
    assert "argument --message" in output


async def test_resuming_what_is_not_paused_says_so(service: Service, admin_command: AdminCommand) -> None:

    assert await admin_command("resume") == (0, "It was not paused.\n")
