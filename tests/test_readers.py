"""A reader's own conversations: listed, exported and deleted together, and nobody else's."""

import asyncio
import uuid
from typing import Any

import pytest
from dirty_equals import IsPartialDict, IsStr, IsUUID
from sqlalchemy import text

from app import dsn, readers
from app.dependencies import owner_of
from tests import kept
from tests.conftest import Service, eventually
from tests.fake_openai import FakeOpenAI, completion, held
from tests.marks import on_one_database

MINE, THEIRS = "a-token-of-my-own-0000", "a-token-of-another-0000"


def of(token: str) -> dict[str, str]:
    return {"X-Reader-Token": token}


async def ask(service: Service, token: str | None, message: str = "Why?", **fields: Any) -> str:
    """Ask as the reader with the token; returns the session's id."""
    headers = of(token) if token else {}
    response = await service.client.post("/chat", json={"message": message, **fields}, headers=headers)
    session_id: str = response.json()["session_id"]
    return session_id


async def listed(service: Service, token: str, **query: Any) -> dict[str, Any]:
    response = await service.client.get("/chat", params=query, headers=of(token))
    assert response.status_code == 200
    body: dict[str, Any] = response.json()
    return body


async def test_a_readers_conversations_are_listed_and_nobody_elses(service: Service, model_server: FakeOpenAI) -> None:
    first = await ask(service, MINE, "What walks?")
    await ask(service, THEIRS)
    await ask(service, None)
    second = await ask(service, MINE, "What rolls?")
    await ask(service, MINE, "And flies?", session_id=first)

    page = await listed(service, MINE)

    assert page == {
        "data": [
            {"id": first, "title": "What walks?", "created_at": IsStr, "updated_at": IsStr},
            {"id": second, "title": "What rolls?", "created_at": IsStr, "updated_at": IsStr},
        ],
        "has_more": False,
        "after": second,
    }
    assert page["data"][0]["updated_at"] > page["data"][1]["updated_at"]
    assert [item["id"] for item in (await listed(service, MINE, order="desc"))["data"]] == [second, first]
    assert await listed(service, "a-token-that-is-new-00") == {"data": [], "has_more": False, "after": None}


async def test_a_long_list_comes_page_by_page(service: Service, model_server: FakeOpenAI) -> None:
    ids = [await ask(service, MINE) for _ in range(5)]

    found, query = [], {"limit": "2"}
    while True:
        page = await listed(service, MINE, **query)
        found.append([item["id"] for item in page["data"]])
        if not page["has_more"]:
            break
        query["after"] = page["after"]

    assert found == [ids[:2], ids[2:4], ids[4:]]


async def test_the_export_has_every_conversation_with_its_messages(
    service: Service, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.readers.PAGE", 2)
    model_server.enqueue(*[completion(f"روبوٹ {n}") for n in range(6)])
    sessions = []
    for _ in range(3):
        sessions.append(await ask(service, MINE, 'What "walks"?\n', selected_text="It <walks>."))
        await ask(service, MINE, "And rolls?", session_id=sessions[-1])
    await ask(service, THEIRS, "A secret?")
    await service.client.put(
        f"/chat/{sessions[0]}/messages/{await answer_id(service, sessions[0])}/feedback",
        json={"rating": "negative", "comment": "No."},
        headers=of(MINE),
    )

    response = await service.client.get("/chat/export", headers=of(MINE))

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["content-disposition"] == 'attachment; filename="conversations.json"'
    exported = response.json()["sessions"]
    assert [session["id"] for session in exported] == sessions
    assert [[m["content"] for m in session["messages"]] for session in exported] == [
        ['What "walks"?\n', f"روبوٹ {2 * n}", "And rolls?", f"روبوٹ {2 * n + 1}"] for n in range(3)
    ]
    assert exported[0] == {
        "id": sessions[0],
        "title": 'What "walks"?',
        "created_at": IsStr,
        "updated_at": IsStr,
        "messages": [
            IsPartialDict(role="user", selected_text="It <walks>."),
            IsPartialDict(role="assistant", sources=[], feedback={"rating": "negative", "comment": "No."}),
            IsPartialDict(role="user", selected_text=None),
            IsPartialDict(role="assistant", id=IsUUID),
        ],
    }
    assert MINE not in response.text


async def test_the_export_has_an_answer_that_came_late_right_after_its_question(
    service: Service, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.readers.PAGE", 2)
    session = await ask(service, MINE, "One?")
    gate = asyncio.Event()
    model_server.enqueue(held(gate))
    slow = asyncio.create_task(ask(service, MINE, "Slow?", session_id=session))
    await eventually(lambda: service.has_recorded("Slow?"))
    await ask(service, MINE, "Quick?", session_id=session)
    gate.set()
    await slow

    [exported] = (await service.client.get("/chat/export", headers=of(MINE))).json()["sessions"]

    assert [message["content"] for message in exported["messages"]] == [
        *("One?", "Answer 1 to: One?", "Slow?", "Answer 2 to: Slow?", "Quick?", "Answer 3 to: Quick?")
    ]


async def test_an_export_goes_on_where_something_was_deleted_meanwhile(
    service: Service, database_url: str, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.readers.PAGE", 2)
    sessions = [await ask(service, MINE, f"{number}?") for number in range(5)]
    for _ in range(2):
        await ask(service, MINE, "And?", session_id=sessions[4])
    database = kept.database(dsn.parse(database_url), pool_size=2)
    found: list[str] = []
    try:
        async for session in readers.own_sessions(database, str(owner_of(MINE))):
            found.append(str(session.id))
            if len(found) == 2:  # The last one of its page.
                await service.client.delete(f"/chat/{session.id}", headers=of(MINE))
        messages = [row.content async for row in readers.messages_of(database, uuid.UUID(sessions[4]))]
    finally:
        await database.close()

    assert found == sessions
    assert [said for said in messages if ":" not in said] == ["4?", "And?", "And?"]


@on_one_database
async def test_an_export_that_fails_breaks_off_and_says_why_in_the_log(
    service: Service, model_server: FakeOpenAI
) -> None:
    await ask(service, MINE)
    async with service.tables.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE messages RENAME TO away"))
    try:
        response = await service.client.get("/chat/export", headers=of(MINE))
    finally:
        async with service.tables.engine.begin() as connection:
            await connection.execute(text("ALTER TABLE away RENAME TO messages"))

    with pytest.raises(ValueError, match="Expecting"):
        response.json()
    assert len(service.log("database.error")) == 1
    assert service.log("service.failed") == []


async def answer_id(service: Service, session_id: str) -> uuid.UUID:
    return next(
        m.id for m in await service.tables.messages() if str(m.session_id) == session_id and m.role.value == "assistant"
    )


async def test_the_export_of_a_reader_without_conversations_is_empty(service: Service) -> None:
    assert (await service.client.get("/chat/export", headers=of(MINE))).json() == {"sessions": []}


async def test_a_reader_deletes_all_conversations_and_nobody_elses(service: Service, model_server: FakeOpenAI) -> None:
    for _ in range(3):
        await ask(service, MINE)
    others = {await ask(service, THEIRS), await ask(service, None)}
    gate = asyncio.Event()
    model_server.enqueue(held(gate))
    running = asyncio.create_task(
        service.client.post(
            "/chat", json={"message": "Still?"}, headers={**of(MINE), "Idempotency-Key": str(uuid.uuid4())}
        )
    )
    await model_server.wait_for_requests(6)

    deleted = await service.client.delete("/chat", headers=of(MINE))
    gate.set()

    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (await running).status_code == 404
    assert {str(session.id) for session in await service.tables.sessions()} == others
    assert {str(m.session_id) for m in await service.tables.messages()} == others
    assert (await service.client.delete("/chat", headers=of(MINE))).status_code == 204


@on_one_database
@pytest.mark.parametrize(("method", "path"), [("GET", "/chat"), ("GET", "/chat/export"), ("DELETE", "/chat")])
@pytest.mark.parametrize("headers", [{}, of(""), of("short"), of("*" * 20)])
async def test_without_a_token_there_are_no_own_conversations(
    service: Service, model_server: FakeOpenAI, method: str, path: str, headers: dict[str, str]
) -> None:
    await ask(service, None)

    response = await service.client.request(method, path, headers=headers)

    assert response.status_code == 400
    assert response.json()["error"]["details"] == [{"field": "X-Reader-Token", "reason": IsStr}]
    assert len(await service.tables.sessions()) == 1
