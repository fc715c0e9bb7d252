"""A recorded question answered anew, whole and as events."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest

from app.models import Message, MessageRole
from app.retrieval import Passage, Query
from tests.bodies import NOT_FOUND
from tests.conftest import PlugIn, Serve, Service
from tests.events import events_of
from tests.fake_openai import FakeOpenAI, completion, failure, held, stream

NO_ANSWER = {"error": {**NOT_FOUND["error"], "message": "There is no such answer."}}
TOKEN = {"X-Reader-Token": "a-token-of-a-reader"}
UNKNOWN = "6e1f4f6e-2f0b-4a51-8f0e-9c2f5c1f4a11"


async def converse(service: Service, *questions: str, **body: Any) -> tuple[str, Sequence[Message]]:
    """Ask the questions in one session; gives its id and its messages."""
    session_id = None
    for question in questions:
        response = await service.chat(question, **{"session_id": session_id, **body})
        session_id = response.json()["session_id"]
    return str(session_id), await service.tables.messages()


async def regenerate(
    service: Service, session_id: object, message_id: object, how: str = "", **headers: str
) -> httpx2.Response:
    path = f"/chat/{session_id}/messages/{message_id}/regenerate{how}"
    return await service.client.post(path, headers=headers)


async def contents(service: Service) -> list[str]:
    return [message.content for message in await service.tables.messages()]


@pytest.mark.parametrize("named", [MessageRole.user, MessageRole.assistant])
async def test_a_question_is_answered_anew_and_what_was_said_after_it_goes(
    service: Service, model_server: FakeOpenAI, named: MessageRole
) -> None:
    model_server.enqueue(*map(completion, ("One.", "Two.", "Three.", "Anew.")))
    session_id, messages = await converse(service, "First?", "Second?", "Third?")
    [second] = [message for message in messages[2:4] if message.role is named]

    response = await regenerate(service, session_id, second.id)

    assert response.status_code == 200
    recorded = await service.tables.messages()
    assert response.json() == {
        "response": "Anew.",
        "session_id": session_id,
        "timestamp": recorded[-1].created_at.isoformat().replace("+00:00", "Z"),
    }
    assert [message["content"] for message in model_server.prompt[1:]] == ["First?", "One.", "Second?"]
    assert [message.content for message in recorded] == ["First?", "One.", "Second?", "Anew."]
    assert recorded[-1].id == messages[3].id


async def test_the_new_answer_has_the_excerpt_and_no_history(service: Service, model_server: FakeOpenAI) -> None:
    session_id, _ = await converse(service, "First?")
    await service.chat("What walks?", session_id=session_id, selected_text="Legs walk.")
    question = (await service.tables.messages())[2]

    response = await regenerate(service, session_id, question.id)

    assert response.status_code == 200
    [_, asked] = model_server.prompt
    assert "Legs walk." in asked["content"]
    assert asked["content"].endswith("What walks?")


async def test_the_page_stays_the_subject(service: Service, plug_in: PlugIn) -> None:
    asked: list[tuple[str | None, str]] = []

    async def find(query: Query) -> list[Passage]:
        asked.append((query.page_url, query.scope))
        return []

    plug_in(find)
    page = {"page_url": "https://book.example.org/legs", "scope": "page"}
    session_id, messages = await converse(service, "What walks?", **page)

    path = f"/chat/{session_id}/messages/{messages[1].id}/regenerate"
    assert (await service.client.post(path, json=page)).status_code == 200
    assert (await service.client.post(path)).status_code == 200

    assert asked == [(page["page_url"], "page")] * 2 + [(None, "book")]


async def test_the_passages_are_looked_up_anew_and_streamed(
    service: Service, model_server: FakeOpenAI, plug_in: PlugIn
) -> None:
    session_id, messages = await converse(service, "What walks?")

    async def legs(_query: object) -> list[Passage]:
        return [Passage("Legs walk.", "https://book.example.org/legs", "Legs")]

    plug_in(legs)
    model_server.enqueue(stream("Legs ", "walk [1]."))

    response = await regenerate(service, session_id, messages[1].id, "/stream")

    events = [event async for event in events_of(response)]
    sources = [{"number": 1, "title": "Legs", "url": "https://book.example.org/legs"}]
    assert [name for name, _ in events] == ["session", "sources", "delta", "delta", "done"]
    assert events[0][1] == {"session_id": session_id}
    assert events[-1][1]["response"] == "Legs walk [1]."
    assert events[-1][1]["message_id"] == str(messages[1].id)
    assert events[-1][1]["sources"] == sources
    assert await contents(service) == ["What walks?", "Legs walk [1]."]


@pytest.mark.parametrize("how", ["", "/stream"])
async def test_a_failure_leaves_the_conversation_as_it_was(
    service: Service, model_server: FakeOpenAI, how: str
) -> None:
    model_server.enqueue(completion("One."), completion("Two."), failure(500))
    session_id, messages = await converse(service, "First?", "Second?")

    response = await regenerate(service, session_id, messages[1].id, how)

    assert (response.status_code, response.json()["error"]["code"]) == (500, "openai_error")
    assert await contents(service) == ["First?", "One.", "Second?", "Two."]


async def test_a_question_that_was_asked_meanwhile_stays(service: Service, model_server: FakeOpenAI) -> None:
    session_id, messages = await converse(service, "First?", "Second?")
    gate = asyncio.Event()
    model_server.enqueue(held(gate, completion("Anew.")))
    regenerating = asyncio.create_task(regenerate(service, session_id, messages[1].id))
    await model_server.wait_for_requests(3)
    await service.chat("Meanwhile?", session_id=session_id)

    gate.set()

    assert (await regenerating).status_code == 200
    assert {*await contents(service)} == {"First?", "Anew.", "Meanwhile?", "Answer 4 to: Meanwhile?"}


async def test_what_is_not_there_cannot_be_answered_anew(service: Service, model_server: FakeOpenAI) -> None:
    session_id, messages = await converse(service, "Mine?")
    other_id, _ = await converse(service, "Other?")
    asked = len(model_server.requests)

    for path, body in {
        (session_id, UNKNOWN): NO_ANSWER,
        (session_id, "no-id"): NO_ANSWER,
        (other_id, messages[1].id): NO_ANSWER,
        (UNKNOWN, messages[1].id): NOT_FOUND,
        ("no-id", messages[1].id): NOT_FOUND,
    }.items():
        response = await regenerate(service, *path)
        assert (response.status_code, response.json()) == (404, body)
    assert len(model_server.requests) == asked


async def test_only_its_reader_has_an_answer_given_anew(service: Service) -> None:
    asked = await service.client.post("/chat", json={"message": "Mine?"}, headers=TOKEN)
    session_id, [_, answer] = asked.json()["session_id"], await service.tables.messages()

    assert (await regenerate(service, session_id, answer.id)).json() == NOT_FOUND
    others = await regenerate(service, session_id, answer.id, **{"X-Reader-Token": "another-readers-token"})
    assert others.json() == NOT_FOUND
    assert (await regenerate(service, session_id, answer.id, **TOKEN)).status_code == 200


async def test_a_new_answer_counts_as_a_question(serve: Serve) -> None:
    service = await serve(RATE_LIMIT="2/day")
    session_id, messages = await converse(service, "First?")
    assert (await regenerate(service, session_id, messages[1].id)).status_code == 200

    refused = await regenerate(service, session_id, messages[1].id)

    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")


async def test_a_question_that_is_taken_over_can_be_asked_again_at_once(
    service: Service, model_server: FakeOpenAI
) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    model_server.enqueue(held(first), held(second), completion("It walks."))
    request: dict[str, Any] = {"json": {"message": "Why?"}, "headers": {"Idempotency-Key": UNKNOWN}}
    asking = asyncio.create_task(service.client.post("/chat", **request))
    await model_server.wait_for_requests(1)
    [question] = await service.tables.messages()
    taking_over = asyncio.create_task(regenerate(service, question.session_id, question.id))
    await model_server.wait_for_requests(2)

    again = await service.client.post("/chat", **request)

    assert (again.status_code, again.json()["response"]) == (200, "It walks.")
    first.set()
    second.set()
    await asyncio.gather(asking, taking_over)
    assert await contents(service) == ["Why?", "It walks."]
