"""A conversation read back and deleted, on both databases."""

import asyncio
import json
import uuid
from datetime import datetime, timedelta
from typing import Any

import httpx2
import pytest
from dirty_equals import IsStr, IsUUID
from sqlalchemy import insert, update
from sqlmodel import col

from app.models import ChatSession, Message, MessageRole, utc_now
from app.retrieval import Passage, Query
from tests.bodies import NOT_FOUND
from tests.conftest import READERS_TOKEN, STRANGERS_TOKEN, PlugIn, Service, eventually
from tests.events import all_events
from tests.fake_openai import FakeOpenAI, completion, failure, held
from tests.marks import on_one_database

UNKNOWN_IDS = ["00000000-0000-4000-8000-000000000000", "abc", "1", "%20", "null", "' OR 1=1 --", "a" * 1000, "%00"]


async def read(service: Service, session_id: object, **query: Any) -> httpx2.Response:
    return await service.client.get(f"/chat/{session_id}/messages", params=query)


async def page(service: Service, session_id: object, **query: Any) -> dict[str, Any]:
    response = await read(service, session_id, **query)
    assert response.status_code == 200
    body: dict[str, Any] = response.json()
    return body


async def pages(service: Service, session_id: object, limit: int) -> list[list[str]]:
    """Read the whole conversation as a client does, until there is no more; returns the ids on each page."""
    read_so_far: list[list[str]] = []
    query: dict[str, Any] = {"limit": limit}
    while True:
        body = await page(service, session_id, **query)
        read_so_far.append([message["id"] for message in body["data"]])
        assert body["after"] == read_so_far[-1][-1]
        if not body["has_more"]:
            return read_so_far
        query["after"] = body["after"]


async def a_session(service: Service, *times: datetime) -> uuid.UUID:
    """Write a session with a message of each time, past the service."""
    session_id = uuid.uuid4()
    async with service.tables.engine.begin() as connection:
        await connection.execute(insert(ChatSession).values(id=session_id, created_at=utc_now(), updated_at=utc_now()))
        for number, time in enumerate(times):
            message = Message(session_id=session_id, role=MessageRole.user, content=str(number), created_at=time)
            await connection.execute(insert(Message).values(message.model_dump()))
    return session_id


async def test_a_conversation_of_plain_and_streamed_turns_is_read_back_oldest_first(
    service: Service, model_server: FakeOpenAI
) -> None:
    first = (await service.chat("What walks?", selected_text="A biped walks.")).json()
    *_, (_, second) = await all_events(service, "What rolls?", session_id=first["session_id"])
    await service.chat("A stranger's question", session_id=None)

    body = await page(service, first["session_id"])

    assert body == {
        "data": [
            {
                "id": IsUUID,
                "role": "user",
                "content": "What walks?",
                "selected_text": "A biped walks.",
                "created_at": IsStr,
            },
            {
                "id": IsUUID(5),
                "role": "assistant",
                "content": "Answer 1 to: What walks?",
                "selected_text": None,
                "created_at": first["timestamp"],
                "sources": [],
            },
            {"id": IsUUID, "role": "user", "content": "What rolls?", "selected_text": None, "created_at": IsStr},
            {
                "id": IsUUID(5),
                "role": "assistant",
                "content": "Answer 2 to: What rolls?",
                "selected_text": None,
                "created_at": second["timestamp"],
                "sources": [],
            },
        ],
        "has_more": False,
        "after": body["data"][-1]["id"],
    }
    assert [m["id"] for m in body["data"]] == [str(m.id) for m in (await service.tables.messages())[:4]]
    times = [datetime.fromisoformat(m["created_at"]) for m in body["data"]]
    assert times == sorted(times)
    assert {time.utcoffset() for time in times} == {timedelta(0)}


@pytest.mark.parametrize("step", [timedelta(microseconds=1), timedelta(0)], ids=["times apart", "equal times"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_page_by_page_every_message_comes_exactly_once(service: Service, step: timedelta, limit: int) -> None:
    await a_session(service, utc_now())
    session_id = await a_session(service, *(utc_now() + n * step for n in range(7)))
    in_order = [str(m.id) for m in await service.tables.messages() if m.session_id == session_id]

    read_so_far = await pages(service, session_id, limit)

    assert [message_id for ids in read_so_far for message_id in ids] == in_order
    assert [len(ids) for ids in read_so_far[:-1]] == [limit] * (len(read_so_far) - 1)
    assert len(read_so_far) == -(-7 // limit)


async def test_a_page_has_fifty_messages_unless_told(service: Service) -> None:
    session_id = await a_session(service, *[utc_now()] * 51)

    body = await page(service, session_id)

    assert (len(body["data"]), body["has_more"]) == (50, True)
    assert len((await page(service, session_id, limit=100))["data"]) == 51


async def test_a_page_of_long_messages_has_fewer_of_them(
    service: Service, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.history.PAGE_CHARS", 1_000)
    session_id = None
    for excerpt, answer in (("e" * 495, "a" * 500), ("e" * 496, "a" * 500), ("e", "a" * 2_000)):
        model_server.enqueue(completion(answer))
        response = await service.chat("Why?!", session_id=session_id, selected_text=excerpt)
        session_id = response.json()["session_id"]

    # Each page is as full as it may be; only a single message may be longer than one.
    assert [len(ids) for ids in await pages(service, session_id, limit=50)] == [2, 1, 2, 1]


async def test_what_is_said_after_a_page_was_read_is_on_the_next(service: Service, model_server: FakeOpenAI) -> None:
    session_id = (await service.chat("One?")).json()["session_id"]
    end = await page(service, session_id)
    assert await page(service, session_id, after=end["after"]) == {"data": [], "has_more": False, "after": end["after"]}
    await service.chat("Two?", session_id=session_id)

    following = await page(service, session_id, after=end["after"])

    assert [m["content"] for m in following["data"]] == ["Two?", "Answer 2 to: Two?"]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_an_answer_that_came_late_stands_right_after_its_question(
    service: Service, model_server: FakeOpenAI, order: str, limit: int
) -> None:
    session_id = (await service.chat("One?")).json()["session_id"]
    gate = asyncio.Event()
    model_server.enqueue(held(gate))
    slow = asyncio.create_task(service.chat("Slow?", session_id=session_id))
    await model_server.wait_for_requests(2)
    await eventually(lambda: service.has_recorded("Slow?"))
    await service.chat("Quick?", session_id=session_id)
    gate.set()
    await slow

    told: list[str] = []
    query: dict[str, Any] = {"order": order, "limit": limit}
    while True:
        body = await page(service, session_id, **query)
        told += [message["content"] for message in body["data"]]
        query["after"] = body["after"]
        if not body["has_more"]:
            break

    spoken = ["One?", "Answer 1 to: One?", "Slow?", "Answer 2 to: Slow?", "Quick?", "Answer 3 to: Quick?"]
    assert (told if order == "asc" else told[::-1]) == spoken


async def test_a_session_without_messages_is_an_empty_page(service: Service) -> None:
    session_id = await a_session(service)

    assert await page(service, session_id) == {"data": [], "has_more": False, "after": None}


@on_one_database
@pytest.mark.parametrize(
    ("query", "field", "reason"),
    [
        ({"limit": "0"}, "limit", "Input should be greater than or equal to 1"),
        ({"limit": "-1"}, "limit", "Input should be greater than or equal to 1"),
        ({"limit": "101"}, "limit", "Input should be less than or equal to 100"),
        ({"limit": "many"}, "limit", "Input should be a valid integer, unable to parse string as an integer"),
        ({"after": "abc"}, "after", "must be a UUID"),
        ({"after": ""}, "after", "must be a UUID"),
        ({"order": "up"}, "order", "Input should be 'asc' or 'desc'"),
    ],
)
async def test_a_malformed_query_is_refused(
    service: Service, model_server: FakeOpenAI, query: dict[str, str], field: str, reason: str
) -> None:
    session_id = (await service.chat()).json()["session_id"]

    response = await read(service, session_id, **query)

    assert response.status_code == 400
    assert response.json() == {
        "error": {
            "code": "validation_error",
            "message": "The request is not valid.",
            "request_id": IsUUID(4),
            "retryable": False,
            "details": [{"field": field, "reason": reason}],
        }
    }


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_place_in_another_session_shows_nothing_of_either(
    service: Service, model_server: FakeOpenAI, order: str
) -> None:
    earlier, mine, later = [(await service.chat()).json()["session_id"] for _ in range(3)]
    places = [(await page(service, session_id, limit=1))["after"] for session_id in (earlier, later)]
    nowhere = "00000000-0000-4000-8000-000000000000"

    bodies = [await page(service, mine, after=after, order=order) for after in (*places, nowhere)]

    # A place of another session looks like one that there is not.
    assert bodies == [{"data": [], "has_more": False, "after": after} for after in (*places, nowhere)]


@on_one_database
@pytest.mark.parametrize("session_id", UNKNOWN_IDS)
async def test_an_unknown_conversation_is_not_found(
    service: Service, model_server: FakeOpenAI, session_id: str
) -> None:
    await service.chat()

    responses = [await read(service, session_id), await service.client.delete(f"/chat/{session_id}")]

    assert [response.status_code for response in responses] == [404, 404]
    assert [response.json() for response in responses] == [NOT_FOUND, NOT_FOUND]
    assert len(await service.tables.messages()) == 2


async def test_a_deleted_conversation_is_gone_and_others_are_not(service: Service, model_server: FakeOpenAI) -> None:
    mine, others = [(await service.chat()).json()["session_id"] for _ in range(2)]

    deleted = await service.client.delete(f"/chat/{mine}")
    again = await service.client.delete(f"/chat/{mine}")
    read_back = await read(service, mine)

    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (again.status_code, again.json()) == (404, NOT_FOUND)
    assert (read_back.status_code, read_back.json()) == (404, NOT_FOUND)
    assert [str(session.id) for session in await service.tables.sessions()] == [others]
    assert [str(m.session_id) for m in await service.tables.messages()] == [others] * 2
    assert len((await page(service, others))["data"]) == 2


async def test_the_id_of_a_deleted_conversation_begins_a_new_one(service: Service, model_server: FakeOpenAI) -> None:
    deleted = (await service.chat("One?")).json()["session_id"]
    await service.client.delete(f"/chat/{deleted}")

    answer = (await service.chat("Two?", session_id=deleted)).json()

    assert answer["session_id"] != deleted
    assert [m["content"] for m in model_server.prompt[1:]] == ["Two?"]
    assert [m["content"] for m in (await page(service, answer["session_id"]))["data"]] == ["Two?", answer["response"]]


TOKENS = {"owner": READERS_TOKEN, "stranger": STRANGERS_TOKEN, "nobody": None}


def token_of(reader: str) -> dict[str, str]:
    token = TOKENS[reader]
    return {"X-Reader-Token": token} if token else {}


@pytest.mark.parametrize("reader", ["stranger", "nobody"])
async def test_a_session_that_begins_with_a_token_does_not_exist_without_it(
    service: Service, model_server: FakeOpenAI, reader: str
) -> None:
    begun = await service.client.post("/chat", json={"message": "One?"}, headers=token_of("owner"))
    session_id = begun.json()["session_id"]
    await service.client.post(
        "/chat/stream", json={"message": "Two?", "session_id": session_id}, headers=token_of("owner")
    )
    before = await service.tables.messages()

    body = {"message": "Three?", "session_id": session_id}
    for path in ("/chat", "/chat/stream"):
        asked = await service.client.post(path, json=body, headers=token_of(reader))
        assert asked.status_code == 200
        assert session_id not in asked.text
        assert [m["content"] for m in model_server.prompt[1:]] == ["Three?"]
    address = f"/chat/{session_id}"
    for response in (
        await service.client.get(f"{address}/messages", headers=token_of(reader)),
        await service.client.delete(address, headers=token_of(reader)),
    ):
        assert (response.status_code, response.json()) == (404, NOT_FOUND)

    assert [m for m in await service.tables.messages() if str(m.session_id) == session_id] == before
    mine = await service.client.get(f"{address}/messages", headers=token_of("owner"))
    assert [m["content"] for m in mine.json()["data"]] == [m.content for m in before]
    assert len(before) == 4
    assert (await service.client.delete(address, headers=token_of("owner"))).status_code == 204


async def test_a_session_that_begins_without_a_token_is_open_to_whoever_knows_its_id(
    service: Service, model_server: FakeOpenAI
) -> None:
    session_id = (await service.chat("One?")).json()["session_id"]

    for reader in TOKENS:
        body = {"message": "More?", "session_id": session_id}
        asked = await service.client.post("/chat", json=body, headers=token_of(reader))
        assert asked.json()["session_id"] == session_id
        assert (await read(service, session_id)).status_code == 200


@pytest.mark.parametrize("reader", ["stranger", "nobody"])
async def test_a_key_does_not_open_another_readers_answer(
    service: Service, model_server: FakeOpenAI, reader: str
) -> None:
    key = {"Idempotency-Key": str(uuid.uuid4())}
    answered = await service.client.post("/chat", json={"message": "One?"}, headers={**key, **token_of("owner")})

    again = await service.client.post("/chat", json={"message": "One?"}, headers={**key, **token_of("owner")})
    strange = await service.client.post("/chat", json={"message": "One?"}, headers={**key, **token_of(reader)})

    assert again.json() == answered.json()
    assert (strange.status_code, strange.json()["error"]["code"]) == (409, "idempotency_conflict")


@on_one_database
@pytest.mark.parametrize("token", ["short", "x" * 129, "a-readers own-token-0001", "ä" * 16])
async def test_a_malformed_token_is_refused(service: Service, token: str) -> None:
    for response in (
        await service.client.post("/chat", json={"message": "One?"}, headers={b"X-Reader-Token": token.encode()}),
        await service.client.get(f"/chat/{uuid.uuid4()}/messages", headers={b"X-Reader-Token": token.encode()}),
    ):
        assert response.status_code == 400
        assert [detail["field"] for detail in response.json()["error"]["details"]] == ["X-Reader-Token"]
        assert token not in response.text


async def test_a_page_of_an_allowed_origin_may_delete(service: Service) -> None:
    origin = "http://localhost:3000"
    asked = {"Origin": origin, "Access-Control-Request-Method": "DELETE"}

    preflight = await service.client.options(f"/chat/{uuid.uuid4()}", headers=asked)
    stranger = await service.client.options(f"/chat/{uuid.uuid4()}", headers={**asked, "Origin": "https://x.example"})

    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == origin
    assert preflight.headers["access-control-allow-methods"] == "GET, POST, PUT, DELETE"
    assert stranger.status_code == 400
    assert "access-control-allow-origin" not in stranger.headers


async def test_an_answer_is_read_back_with_the_sources_that_it_cites(
    service: Service, model_server: FakeOpenAI, plug_in: PlugIn
) -> None:
    async def search(_query: Query) -> list[Passage]:
        return [Passage("It walks.", f"https://book.example.org/{n}", f"Page {n}") for n in range(1, 4)]

    plug_in(search)
    model_server.enqueue(completion("It walks [3][1]."))
    session_id = (await service.chat()).json()["session_id"]

    question, answer = (await page(service, session_id))["data"]

    cited = [{"number": n, "title": f"Page {n}", "url": f"https://book.example.org/{n}"} for n in (1, 3)]
    assert answer["sources"] == cited
    assert question.keys() == {"id", "role", "content", "selected_text", "created_at"}
    older = [{"source": source["url"], "title": source["title"]} for source in cited]
    async with service.tables.engine.begin() as connection:
        await connection.execute(
            update(Message).where(col(Message.id) == uuid.UUID(answer["id"])).values(sources=older)
        )
    _, answer = (await page(service, session_id))["data"]
    assert answer["sources"] == [{**cited[0], "number": 1}, {**cited[1], "number": 2}]


async def answering(service: Service, session_id: object, **query: Any) -> list[bool | None]:
    """For each question, oldest first unless told otherwise, whether its answer is on its way."""
    messages = (await page(service, session_id, **query))["data"]
    assert not any("answering" in message for message in messages if message["role"] == "assistant")
    return [message.get("answering") for message in messages if message["role"] == "user"]


@pytest.mark.parametrize("key", [None, str(uuid.UUID(int=7))], ids=["without a key", "with a key"])
async def test_a_question_says_that_its_answer_is_on_its_way_until_it_is_there(
    service: Service, model_server: FakeOpenAI, key: str | None
) -> None:
    session_id = (await service.chat("One?")).json()["session_id"]
    gate = asyncio.Event()
    model_server.enqueue(held(gate))
    body = {"message": "Two?", "session_id": session_id}
    asking = asyncio.create_task(
        service.client.post("/chat", json=body, headers={"Idempotency-Key": key} if key else {})
    )
    await model_server.wait_for_requests(2)
    await eventually(lambda: service.has_recorded("Two?"))

    during = [await answering(service, session_id, limit=limit) for limit in (3, 50)]
    backwards = await answering(service, session_id, order="desc", limit=1)
    gate.set()
    await asking

    assert during == [[None, True]] * 2
    assert backwards == [True]
    assert await answering(service, session_id) == [None, None]
    assert await answering(service, session_id, limit=3) == [None, None]


@pytest.mark.parametrize("key", [None, str(uuid.UUID(int=7))], ids=["without a key", "with a key"])
async def test_a_question_that_failed_is_not_being_answered(
    service: Service, model_server: FakeOpenAI, key: str | None
) -> None:
    session_id = (await service.chat("One?")).json()["session_id"]
    model_server.enqueue(failure(500))
    body = {"message": "Two?", "session_id": session_id}

    await service.client.post("/chat/stream", json=body, headers={"Idempotency-Key": key} if key else {})

    assert await answering(service, session_id) == [None, None]
    assert [m.answering_until for m in await service.tables.messages()][2:] == [None]


async def test_a_question_whose_process_died_is_not_being_answered_for_ever(
    service: Service, model_server: FakeOpenAI
) -> None:
    session_id = await a_session(service, utc_now())
    times = {"in force": timedelta(seconds=30), "run out": timedelta(0)}
    told = {}
    for name, left in times.items():
        async with service.tables.engine.begin() as connection:
            await connection.execute(update(Message).values(answering_until=utc_now() + left))
        told[name] = await answering(service, session_id)

    assert told == {"in force": [True], "run out": [None]}


async def rate(service: Service, session_id: object, message_id: object, **fields: Any) -> httpx2.Response:
    body = {"rating": "positive", **fields}
    return await service.client.put(
        f"/chat/{session_id}/messages/{message_id}/feedback",
        content=json.dumps(body),
        headers={"Content-Type": "application/json"},
    )


async def test_an_answer_that_is_rated_says_so_and_the_last_rating_counts(service: Service) -> None:
    session_id = (await service.chat()).json()["session_id"]
    _, answer = (await page(service, session_id))["data"]
    assert "feedback" not in answer

    for feedback in (
        {"rating": "positive", "comment": "Short and clear.\n\N{ROBOT FACE}"},
        {"rating": "negative"},
        {"rating": "negative", "comment": "x" * 2000},
    ):
        response = await rate(service, session_id, answer["id"], **feedback)
        question, rated = (await page(service, session_id))["data"]

        assert (response.status_code, response.content) == (204, b"")
        assert rated == {**answer, "feedback": feedback}
        assert "feedback" not in question
    assert [(m.feedback, len(m.feedback_comment or "")) for m in await service.tables.messages()] == [
        (None, 0),
        ("negative", 2000),
    ]


async def test_a_blank_comment_is_none(service: Service) -> None:
    session_id = (await service.chat()).json()["session_id"]
    _, answer = (await page(service, session_id))["data"]

    for comment in (" \n", None):
        assert (await rate(service, session_id, answer["id"], comment=comment)).status_code == 204

        assert (await page(service, session_id))["data"][1]["feedback"] == {"rating": "positive"}


async def test_a_rating_in_chatkit_is_the_same_rating_and_takes_an_older_comment_away(service: Service) -> None:
    session_id = (await service.chat()).json()["session_id"]
    _, answer = (await page(service, session_id))["data"]
    await rate(service, session_id, answer["id"], comment="Clear.")
    params = {"thread_id": session_id, "item_ids": [answer["id"]], "kind": "negative"}

    await service.client.post("/chatkit", json={"type": "items.feedback", "params": params})

    assert (await page(service, session_id))["data"][1]["feedback"] == {"rating": "negative"}


async def test_an_answer_that_is_given_anew_has_no_feedback(service: Service) -> None:
    session_id = (await service.chat()).json()["session_id"]
    question, answer = (await page(service, session_id))["data"]
    await rate(service, session_id, answer["id"], comment="Clear.")
    params = {"thread_id": session_id, "item_id": question["id"]}

    await service.client.post("/chatkit", json={"type": "threads.retry_after_item", "params": params})

    assert "feedback" not in (await page(service, session_id))["data"][1]
    assert [m.feedback_comment for m in await service.tables.messages()] == [None, None]


async def test_only_an_answer_of_the_readers_own_session_can_be_rated(service: Service) -> None:
    mine = await service.client.post("/chat", json={"message": "One?"}, headers=token_of("owner"))
    theirs = mine.json()["session_id"]
    session_id = (await service.chat("Two?")).json()["session_id"]
    (_, answer_of_theirs, question, answer) = await service.tables.messages()

    unknown_answers = [
        await rate(service, session_id, message_id) for message_id in (question.id, answer_of_theirs.id, *UNKNOWN_IDS)
    ]
    unknown_sessions = [
        await rate(service, unknown, message_id)
        for unknown, message_id in ((theirs, answer_of_theirs.id), *((unknown, answer.id) for unknown in UNKNOWN_IDS))
    ]

    assert [(r.status_code, r.json()["error"]["code"]) for r in unknown_answers] == [(404, "not_found")] * 10
    assert unknown_answers[0].json()["error"]["message"] == "There is no such answer."
    assert [(r.status_code, r.json()) for r in unknown_sessions] == [(404, NOT_FOUND)] * 9
    assert [m.feedback for m in await service.tables.messages()] == [None] * 4
    service.client.headers.update(token_of("owner"))
    assert (await rate(service, theirs, answer_of_theirs.id)).status_code == 204


@on_one_database
@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"rating": "good"}, "rating", "Input should be 'positive' or 'negative'"),
        ({"rating": None}, "rating", "Input should be 'positive' or 'negative'"),
        ({"comment": "x" * 2001}, "comment", "must not be longer than 2000 characters"),
        ({"comment": "a\x00b"}, "comment", "must not contain NUL characters"),
        ({"comment": "a\ud83d"}, "comment", "must not contain unpaired surrogates"),
        ({"comment": 7}, "comment", "Input should be a valid string"),
    ],
)
async def test_a_malformed_rating_is_refused(service: Service, fields: dict[str, Any], field: str, reason: str) -> None:
    session_id = (await service.chat()).json()["session_id"]
    _, answer = (await page(service, session_id))["data"]

    response = await rate(service, session_id, answer["id"], **fields)

    assert response.status_code == 400
    assert response.json()["error"]["details"] == [{"field": field, "reason": reason}]
    assert "feedback" not in (await page(service, session_id))["data"][1]


async def test_a_page_of_an_allowed_origin_may_rate(service: Service) -> None:
    asked = {
        "Origin": "http://localhost:3000",
        "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "content-type, x-reader-token",
    }

    preflight = await service.client.options(f"/chat/{uuid.uuid4()}/messages/{uuid.uuid4()}/feedback", headers=asked)

    assert preflight.status_code == 200
