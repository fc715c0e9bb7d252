"""`POST /chatkit`, over a real socket, on both databases, with answers parsed by ChatKit's own package."""

import asyncio
import hashlib
import itertools
import uuid
from typing import Any

import httpx2
import pytest
from chatkit.types import AssistantMessageItem, Page, Thread, ThreadItem, ThreadStreamEvent, URLSource
from pydantic import TypeAdapter
from sqlalchemy import insert, update
from sqlmodel import col

from app.models import Message, MessageRole
from app.ratelimit import Allowance
from app.retrieval import Passage, Query
from tests import commands
from tests.conftest import READERS_TOKEN, ROOT, STRANGERS_TOKEN, PlugIn, Serve, Service, eventually
from tests.fake_openai import FakeOpenAI, completion, cut_stream, failure, held, stream
from tests.marks import on_one_database

EVENT: TypeAdapter[ThreadStreamEvent] = TypeAdapter(ThreadStreamEvent)
UNKNOWN = str(uuid.UUID(int=1))
PASSAGE = Passage(text="It runs.", source="https://book.example.org/run", title="Running")


def user_input(text: str, **fields: Any) -> dict[str, Any]:
    return {
        "content": [{"type": "input_text", "text": text}],
        "attachments": [],
        "inference_options": {},
        **fields,
    }


class Widget:
    """The widget's side of the protocol."""

    def __init__(self, service: Service, token: str | None = READERS_TOKEN) -> None:
        self.service = service
        self.headers = {"X-Reader-Token": token} if token else {}

    async def send(self, kind: str, /, **params: Any) -> Any:
        return await self.service.client.post("/chatkit", json={"type": kind, "params": params}, headers=self.headers)

    async def chat(self, message: str, **fields: Any) -> httpx2.Response:
        """Ask through `/chat`, as the same reader."""
        return await self.service.client.post("/chat", json={"message": message, **fields}, headers=self.headers)

    async def stream(self, kind: str, /, **params: Any) -> list[Any]:
        response = await self.send(kind, **params)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        frames = response.text.removesuffix("\n\n").split("\n\n")
        assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
        return [EVENT.validate_json(frame.removeprefix("data: ")) for frame in frames]

    async def finds_nothing(self, kind: str, /, **params: Any) -> None:
        """See that there is no such thread: in an event where a stream is expected, in a status elsewhere."""
        if kind in {"threads.add_user_message", "threads.retry_after_item"}:
            [error] = await self.stream(kind, **params)
            assert (error.type, error.message, error.allow_retry) == ("error", "There is no such conversation.", False)
        else:
            response = await self.send(kind, **params)
            assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found"), kind
            assert response.json()["message"] == "There is no such conversation."

    async def create(self, text: str = "What is a robot?", **fields: Any) -> list[Any]:
        return await self.stream("threads.create", input=user_input(text, **fields))

    async def add(self, thread_id: str, text: str) -> list[Any]:
        return await self.stream("threads.add_user_message", thread_id=thread_id, input=user_input(text))

    async def items(self, thread_id: str, **params: Any) -> Page[ThreadItem]:
        response = await self.send("items.list", thread_id=thread_id, **params)
        assert response.status_code == 200, response.text
        return Page[ThreadItem].model_validate_json(response.content)

    async def threads(self, **params: Any) -> Page[Thread]:
        response = await self.send("threads.list", **params)
        assert response.status_code == 200, response.text
        return Page[Thread].model_validate_json(response.content)

    async def thread(self, thread_id: str) -> Thread:
        response = await self.send("threads.get_by_id", thread_id=thread_id)
        assert response.status_code == 200, response.text
        return Thread.model_validate_json(response.content)

    async def until_recorded(self, count: int) -> list[Message]:
        """Wait for so many messages in all, and return them."""

        async def are_recorded() -> bool:
            return len(await self.service.tables.messages()) == count

        await eventually(are_recorded)
        return await self.service.tables.messages()


@pytest.fixture
def widget(service: Service) -> Widget:
    return Widget(service)


def thread_id_of(events: list[Any]) -> str:
    created: str = events[0].thread.id
    return created


def kinds(events: list[Any]) -> list[str]:
    return [event.update.type if event.type == "thread.item.updated" else event.type for event in events]


async def test_a_new_thread_streams_its_turn_in_the_order_of_the_protocol(
    widget: Widget, model_server: FakeOpenAI
) -> None:
    model_server.enqueue(stream("A robot ", "that walks", "."))

    events = await widget.create("What is a humanoid?")

    part = "assistant_message.content_part"
    assert kinds(events) == [
        "thread.created",
        "thread.item.done",
        "stream_options",
        "thread.item.added",
        f"{part}.added",
        f"{part}.text_delta",
        f"{part}.text_delta",
        f"{part}.text_delta",
        f"{part}.done",
        "thread.item.done",
    ]
    thread, asked, answer = events[0].thread, events[1].item, events[-1].item
    assert thread.title == "What is a humanoid?"
    assert [event.update.delta for event in events[5:8]] == ["A robot ", "that walks", "."]
    assert answer.content[0].text == "A robot that walks."
    assert (await widget.items(thread.id, order="asc")).data == [asked, answer]
    for made in (thread, asked, answer):
        assert uuid.UUID(made.id).hex
        assert made.created_at.tzinfo is not None
    rows = await widget.service.tables.messages()
    assert [(str(row.id), row.content) for row in rows] == [
        (asked.id, "What is a humanoid?"),
        (answer.id, "A robot that walks."),
    ]


async def test_a_conversation_from_its_first_question_to_its_deletion(widget: Widget, model_server: FakeOpenAI) -> None:
    model_server.enqueue(*[stream(f"Answer {number}.") for number in (1, 2, 3)], completion("Answer 4."))

    created = await widget.create("First?")
    thread_id = thread_id_of(created)
    added = await widget.add(thread_id, "Second?")
    retried = await widget.stream("threads.retry_after_item", thread_id=thread_id, item_id=added[0].item.id)
    rated = await widget.send("items.feedback", thread_id=thread_id, item_ids=[retried[-1].item.id], kind="negative")
    renamed = await widget.send("threads.update", thread_id=thread_id, title="Robots")
    continued = await widget.chat("Third?", session_id=thread_id)

    assert [response.status_code for response in (rated, renamed, continued)] == [200, 200, 200]
    assert continued.json()["session_id"] == thread_id
    told = ["First?", "Answer 1.", "Second?", "Answer 3.", "Third?", "Answer 4."]
    assert [message["content"] for message in model_server.prompt[1:]] == told[:-1]
    thread = await widget.thread(thread_id)
    items: list[Any] = thread.items.data
    assert (thread.title, [item.content[0].text for item in items]) == ("Robots", told)
    assert [listed.id for listed in (await widget.threads()).data] == [thread_id]
    assert (await widget.items(thread_id, order="asc")).data == items
    assert (await widget.items(thread_id)).data == items[::-1]

    await widget.send("threads.delete", thread_id=thread_id)
    assert (await widget.threads()).data == []
    assert await widget.service.tables.messages() == []


async def test_a_quoted_text_is_a_selected_text(widget: Widget, model_server: FakeOpenAI) -> None:
    session_id = thread_id_of(await widget.create("Earlier?"))
    await widget.chat("Why?", session_id=session_id, selected_text="It walks.")
    of_chat = model_server.prompt

    events = await widget.stream(
        "threads.add_user_message", thread_id=session_id, input=user_input("Why?", quoted_text="It walks.")
    )

    assert model_server.prompt == of_chat
    assert events[0].item.quoted_text == "It walks."


async def test_a_conversation_goes_on_from_widget_to_chat_and_back(widget: Widget, model_server: FakeOpenAI) -> None:
    thread_id = thread_id_of(await widget.create("First?"))

    response = await widget.chat("Second?", session_id=thread_id)
    await widget.add(thread_id, "Third?")

    assert response.json()["session_id"] == thread_id
    asked = [message["content"] for message in model_server.prompt if message["role"] == "user"]
    assert asked == ["First?", "Second?", "Third?"]
    assert len((await widget.thread(thread_id)).items.data) == 6
    page = await widget.service.client.get(f"/chat/{thread_id}/messages", headers=widget.headers)
    read_back = page.json()["data"]
    assert len(read_back) == 6


async def test_a_session_of_chat_is_opened_by_its_id_but_listed_to_nobody(widget: Widget) -> None:
    session_id = (await widget.service.chat("First?")).json()["session_id"]

    await widget.add(session_id, "Second?")

    assert len((await widget.items(session_id)).data) == 4
    assert (await widget.threads()).data == []


async def test_a_retry_replaces_what_came_after_the_question(widget: Widget, model_server: FakeOpenAI) -> None:
    model_server.enqueue(stream("One."), stream("Two."), stream("Three."), failure(500), stream("Four."))
    first = await widget.create("First?")
    thread_id, question, answer = thread_id_of(first), first[1].item, first[-1].item
    await widget.add(thread_id, "Second?")

    again = await widget.stream("threads.retry_after_item", thread_id=thread_id, item_id=question.id)

    assert kinds(again)[:2] == ["stream_options", "thread.item.added"]
    assert again[-1].item.id == answer.id
    assert [message["content"] for message in model_server.prompt if message["role"] == "user"] == ["First?"]
    assert [m.content for m in await widget.service.tables.messages()] == ["First?", "Three."]

    failed = await widget.stream("threads.retry_after_item", thread_id=thread_id, item_id=question.id)
    assert (failed[-1].type, failed[-1].allow_retry) == ("error", True)
    assert [m.content for m in await widget.service.tables.messages()] == ["First?", "Three."]

    await widget.stream("threads.retry_after_item", thread_id=thread_id, item_id=question.id)
    assert [m.content for m in await widget.service.tables.messages()] == ["First?", "Four."]
    for item_id in (UNKNOWN, "no-id"):
        [error] = await widget.stream("threads.retry_after_item", thread_id=thread_id, item_id=item_id)
        assert (error.type, error.message, error.allow_retry) == ("error", "There is no such answer.", False)


@pytest.mark.parametrize("reply", [failure(500), cut_stream, stream("Half", finish_reason=None)])
async def test_a_retry_that_fails_leaves_the_thread_as_it_was(
    widget: Widget, model_server: FakeOpenAI, reply: Any
) -> None:
    first = await widget.create("First?")
    await widget.add(thread_id_of(first), "Second?")
    before = await widget.thread(thread_id_of(first))
    model_server.enqueue(reply)

    failed = await widget.stream("threads.retry_after_item", thread_id=thread_id_of(first), item_id=first[1].item.id)

    assert (failed[-1].type, failed[-1].allow_retry) == ("error", True)
    assert await widget.thread(thread_id_of(first)) == before
    assert len(before.items.data) == 4


@pytest.mark.parametrize("first_to_end", ["older", "newer"])
async def test_of_two_retries_the_newer_gives_the_answer_that_stays(
    widget: Widget, model_server: FakeOpenAI, first_to_end: str
) -> None:
    first = await widget.create("Why?")
    where = {"thread_id": thread_id_of(first), "item_id": first[1].item.id}
    gates = {name: asyncio.Event() for name in ("older", "newer")}
    model_server.enqueue(*[stream(f"{name} ", "answer.", gate=gate) for name, gate in gates.items()])
    retries = {}
    for number, name in enumerate(gates, start=2):
        retries[name] = asyncio.create_task(widget.stream("threads.retry_after_item", **where))
        await model_server.wait_for_requests(number)
    for name in sorted(gates, key=lambda name: name != first_to_end):
        gates[name].set()
        await retries[name]

    assert [m.content for m in await widget.service.tables.messages()] == ["Why?", "newer answer."]
    assert (await retries["older"])[-1].type == "error"
    assert (await retries["newer"])[-1].item.content[0].text == "newer answer."


async def test_a_retry_that_a_newer_one_has_overtaken_deletes_nothing(widget: Widget, model_server: FakeOpenAI) -> None:
    first = await widget.create("First?")
    await widget.add(thread_id_of(first), "Second?")
    where = {"thread_id": thread_id_of(first), "item_id": first[1].item.id}
    older_may_answer, newer_may_answer = asyncio.Event(), asyncio.Event()
    model_server.enqueue(held(older_may_answer, stream("Older.")), held(newer_may_answer, failure(500)))
    older = asyncio.create_task(widget.stream("threads.retry_after_item", **where))
    await model_server.wait_for_requests(3)
    newer = asyncio.create_task(widget.stream("threads.retry_after_item", **where))
    await model_server.wait_for_requests(4)
    before = await widget.thread(thread_id_of(first))

    older_may_answer.set()
    ended = [(await older)[-1].type]
    newer_may_answer.set()
    ended.append((await newer)[-1].type)

    assert ended == ["error", "error"]
    assert await widget.thread(thread_id_of(first)) == before
    assert len(before.items.data) == 4


async def test_what_is_asked_while_a_retry_runs_stays(widget: Widget, model_server: FakeOpenAI) -> None:
    first = await widget.create("First?")
    gate = asyncio.Event()
    model_server.enqueue(held(gate, stream("Anew.")), stream("Two."))
    retrying = asyncio.create_task(
        widget.stream("threads.retry_after_item", thread_id=thread_id_of(first), item_id=first[1].item.id)
    )
    await model_server.wait_for_requests(2)
    await widget.add(thread_id_of(first), "Second?")
    gate.set()
    await retrying

    thread = await widget.thread(thread_id_of(first))
    items: list[Any] = thread.items.data
    assert sorted(item.content[0].text for item in items) == ["Anew.", "First?", "Second?", "Two."]


@pytest.mark.parametrize("first_to_end", ["stopped", "retried"])
async def test_a_retry_wins_over_the_answer_that_was_stopped(
    widget: Widget, model_server: FakeOpenAI, first_to_end: str
) -> None:
    gates = {name: asyncio.Event() for name in ("stopped", "retried")}
    model_server.enqueue(*[stream(f"{name} ", "answer.", gate=gate) for name, gate in gates.items()])
    asking = asyncio.create_task(widget.create("Why?"))
    await model_server.wait_for_requests(1)
    [question] = await widget.until_recorded(1)
    where = {"thread_id": str(question.session_id), "item_id": str(question.id)}
    retrying = asyncio.create_task(widget.stream("threads.retry_after_item", **where))
    await model_server.wait_for_requests(2)
    turns = {"stopped": asking, "retried": retrying}
    for name in sorted(gates, key=lambda name: name != first_to_end):
        gates[name].set()
        await turns[name]

    assert [m.content for m in await widget.service.tables.messages()] == ["Why?", "retried answer."]
    assert (await retrying)[-1].item.content[0].text == "retried answer."


async def test_a_retry_takes_later_questions_away_with_answers_that_are_still_to_come(
    widget: Widget, model_server: FakeOpenAI
) -> None:
    gate = asyncio.Event()
    model_server.enqueue(stream("One."), held(gate, stream("Two.")), stream("Three."))
    first = await widget.create("First?")
    thread_id = thread_id_of(first)
    adding = asyncio.create_task(widget.add(thread_id, "Second?"))
    await widget.until_recorded(3)
    await widget.stream("threads.retry_after_item", thread_id=thread_id, item_id=first[1].item.id)
    gate.set()

    assert ((await adding)[-1].type, (await adding)[-1].allow_retry) == ("error", False)
    assert [m.content for m in await widget.service.tables.messages()] == ["First?", "Three."]


async def test_a_retry_leaves_the_late_answer_to_an_earlier_question_alone(
    widget: Widget, model_server: FakeOpenAI
) -> None:
    gate = asyncio.Event()
    model_server.enqueue(stream("One."), held(gate, stream("Two.")), stream("Three."), stream("Four."))
    thread_id = thread_id_of(await widget.create("First?"))
    slow = asyncio.create_task(widget.add(thread_id, "Slow?"))
    await model_server.wait_for_requests(2)
    quick = await widget.add(thread_id, "Quick?")
    gate.set()
    await slow

    await widget.stream("threads.retry_after_item", thread_id=thread_id, item_id=quick[0].item.id)

    contents = [m.content for m in await widget.service.tables.messages()]
    assert sorted(contents) == ["First?", "Four.", "One.", "Quick?", "Slow?", "Two."]
    assert [m["content"] for m in model_server.prompt[1:]] == ["First?", "One.", "Slow?", "Two.", "Quick?"]


async def test_a_thread_that_is_deleted_while_it_is_added_to_stays_deleted(
    widget: Widget, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread_id = thread_id_of(await widget.create())

    async def delete_meanwhile(_self: object, _request: object, _owner: object) -> Allowance:
        await widget.service.tables.clear()
        return lambda: asyncio.sleep(0)

    monkeypatch.setattr("app.ratelimit.RateLimiter.allowance", delete_meanwhile)
    [error] = await widget.stream("threads.add_user_message", thread_id=thread_id, input=user_input("Still there?"))

    assert (error.type, error.message, error.allow_retry) == ("error", "There is no such conversation.", False)
    assert await widget.service.tables.sessions() == []


async def test_a_reader_who_leaves_while_asking_is_no_failure_of_ours(widget: Widget) -> None:
    service, address = widget.service, widget.service.client.base_url
    _, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(b"POST /chatkit HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{")
    await writer.drain()
    writer.close()

    await eventually(lambda: service.logged("request"))
    assert [record["status"] for record in service.log("request")] == [400]
    assert not await service.logged("internal.error")


async def test_a_body_with_many_faults_is_refused_with_some_of_them(widget: Widget) -> None:
    response = await widget.send("threads.create", input=user_input("Why?", attachments=[1] * 1000))

    assert response.status_code == 400
    assert (
        response.json()["error"]["details"]
        == [{"field": "threads.create.params.input.attachments", "reason": "Input should be a valid string"}] * 20
    )


@pytest.mark.parametrize("reply", [failure(500), cut_stream], ids=["failure", "half an answer"])
async def test_a_failing_model_ends_the_stream_in_an_error(
    widget: Widget, model_server: FakeOpenAI, reply: Any
) -> None:
    model_server.enqueue(reply)

    events = await widget.create()

    assert (events[-1].type, events[-1].code, events[-1].allow_retry) == ("error", "custom", True)
    assert events[-1].message
    assert [m.role for m in await widget.service.tables.messages()] == [MessageRole.user]


async def test_a_stopped_answer_is_recorded_whole(widget: Widget, model_server: FakeOpenAI) -> None:
    gate = asyncio.Event()
    model_server.enqueue(held(gate, stream("A robot ", "walks.")))
    body = {"type": "threads.create", "params": {"input": user_input("Why?")}}
    async with widget.service.client.stream("POST", "/chatkit", json=body, headers=widget.headers) as response:
        async for line in response.aiter_lines():
            if "thread.item.added" in line:
                break
    gate.set()

    async def is_recorded() -> bool:
        return [m.content for m in await widget.service.tables.messages()] == ["Why?", "A robot walks."]

    await eventually(is_recorded)
    [thread] = (await widget.threads()).data
    assert len((await widget.items(thread.id)).data) == 2


async def test_a_message_of_another_thread_is_neither_rated_nor_answered_anew(
    widget: Widget, model_server: FakeOpenAI
) -> None:
    own, other = await widget.create("Own?"), await widget.create("Other?")
    question, answer = other[1].item, other[-1].item
    before = await widget.service.tables.messages()

    rated = await widget.send(
        "items.feedback", thread_id=thread_id_of(own), item_ids=[question.id, answer.id], kind="negative"
    )
    [error] = await widget.stream("threads.retry_after_item", thread_id=thread_id_of(own), item_id=question.id)

    assert (error.type, error.message, error.allow_retry) == ("error", "There is no such answer.", False)
    assert rated.json() == {}
    assert await widget.service.tables.messages() == before
    assert len(model_server.requests) == 2


async def test_an_answer_that_is_still_to_come_in_another_thread_is_not_rated(
    widget: Widget, model_server: FakeOpenAI
) -> None:
    own = thread_id_of(await widget.create("Own?"))
    gate = asyncio.Event()
    model_server.enqueue(held(gate, stream("It walks.")))
    asking = asyncio.create_task(widget.create("Other?"))
    [*_, question] = await widget.until_recorded(3)

    answer_id = str(uuid.uuid5(question.id, "reply"))
    await widget.send("items.feedback", thread_id=own, item_ids=[answer_id], kind="negative")
    gate.set()
    await asking

    assert [m.feedback for m in await widget.service.tables.messages()] == [None] * 4


async def test_a_retry_touches_no_other_thread(widget: Widget) -> None:
    first = await widget.create("First?")
    elsewhere = thread_id_of(await widget.create("Elsewhere?"))
    await widget.add(thread_id_of(first), "Second?")
    before = await widget.thread(elsewhere)

    await widget.stream("threads.retry_after_item", thread_id=thread_id_of(first), item_id=first[1].item.id)

    assert await widget.thread(elsewhere) == before
    assert len(before.items.data) == 2


async def test_a_regenerated_answer_has_a_time_and_sources_of_its_own_and_no_feedback(
    widget: Widget, model_server: FakeOpenAI, plug_in: PlugIn
) -> None:
    found = [[Passage(text="It walks.", source="https://book.example.org/gait", title="Gait")], [], [PASSAGE]]
    model_server.enqueue(stream("It walks [1]."), stream("I do not know."), stream("It runs [1]."))

    async def search(_query: Query) -> list[Passage]:
        return found.pop(0)

    plug_in(search)
    events = await widget.create()
    where = {"thread_id": thread_id_of(events), "item_id": events[1].item.id}
    sources, times = [], []
    for _ in range(2):
        answer = events[-1].item
        await widget.send("items.feedback", thread_id=where["thread_id"], item_ids=[answer.id], kind="positive")
        events = await widget.stream("threads.retry_after_item", **where)
        _, recorded = await widget.service.tables.messages()
        assert recorded.feedback is None
        assert events[-1].item.created_at == recorded.created_at > answer.created_at
        sources.append(recorded.sources)
        times.append(recorded.created_at)

    assert sources == [None, [{"number": 1, "title": PASSAGE.title, "url": PASSAGE.source}]]
    assert times == sorted(times)


async def test_a_regenerated_answer_names_its_question_even_if_the_old_one_did_not(widget: Widget) -> None:
    events = await widget.create()
    async with widget.service.tables.engine.begin() as connection:
        await connection.execute(update(Message).values(reply_to=None))

    await widget.stream("threads.retry_after_item", thread_id=thread_id_of(events), item_id=events[1].item.id)

    question, answer = await widget.service.tables.messages()
    assert answer.reply_to == question.id


async def test_a_thread_is_renamed_rated_and_deleted(widget: Widget) -> None:
    events = await widget.create()
    thread_id, answer = thread_id_of(events), events[-1].item
    [before] = await widget.service.tables.sessions()

    renamed = await widget.send("threads.update", thread_id=thread_id, title="  Robots ")
    rated = await widget.send("items.feedback", thread_id=thread_id, item_ids=[answer.id], kind="positive")
    elsewhere = await widget.send("items.feedback", thread_id=thread_id, item_ids=[UNKNOWN], kind="negative")

    assert Thread.model_validate_json(renamed.content).title == "Robots"
    assert (await widget.thread(thread_id)).title == "Robots"
    assert [rated.json(), elsewhere.json()] == [{}, {}]
    assert [m.feedback for m in await widget.service.tables.messages()] == [None, "positive"]
    [after] = await widget.service.tables.sessions()
    assert after.updated_at == before.updated_at

    deleted = await widget.send("threads.delete", thread_id=thread_id)
    assert deleted.json() == {}
    assert await widget.service.tables.messages() == []
    assert (await widget.send("threads.get_by_id", thread_id=thread_id)).status_code == 404


async def test_renaming_or_deleting_a_thread_leaves_the_others(widget: Widget) -> None:
    threads = [thread_id_of(await widget.create(f"Question {number}?")) for number in range(3)]

    await widget.send("threads.update", thread_id=threads[0], title="Robots")
    await widget.send("threads.delete", thread_id=threads[1])

    left = (await widget.threads(order="asc")).data
    assert [(thread.id, thread.title) for thread in left] == [(threads[0], "Robots"), (threads[2], "Question 2?")]
    assert len(await widget.service.tables.messages()) == 4


async def test_a_thread_that_is_deleted_while_the_model_thinks_ends_in_an_error(
    widget: Widget, model_server: FakeOpenAI
) -> None:
    thread_id = thread_id_of(await widget.create())
    gate = asyncio.Event()
    model_server.enqueue(held(gate, stream("Late.")))
    adding = asyncio.create_task(widget.add(thread_id, "Why?"))
    await widget.until_recorded(3)
    await widget.send("threads.delete", thread_id=thread_id)
    gate.set()

    assert ((await adding)[-1].type, (await adding)[-1].allow_retry) == ("error", False)
    assert await widget.service.tables.messages() == []


@pytest.mark.parametrize("token", [STRANGERS_TOKEN, None], ids=["another token", "no token"])
async def test_a_strangers_thread_is_neither_listed_nor_opened(service: Service, token: str | None) -> None:
    owner, stranger = Widget(service), Widget(service, token)
    events = await owner.create()
    thread_id = thread_id_of(events)
    before = await service.tables.messages()

    assert [thread.id for thread in (await owner.threads()).data] == [thread_id]
    assert (await stranger.threads()).data == []
    for kind, params in requests_for(thread_id, events[1].item.id).items():
        await stranger.finds_nothing(kind, **params)

    assert await service.tables.messages() == before
    [session] = await service.tables.sessions()
    assert session.owner == hashlib.sha256(READERS_TOKEN.encode()).hexdigest()
    assert READERS_TOKEN not in service.output


def requests_for(thread_id: str, item_id: str) -> dict[str, dict[str, Any]]:
    """Every request that names a thread."""
    return {
        "threads.get_by_id": {"thread_id": thread_id},
        "threads.update": {"thread_id": thread_id, "title": "Mine"},
        "threads.delete": {"thread_id": thread_id},
        "items.list": {"thread_id": thread_id},
        "items.feedback": {"thread_id": thread_id, "item_ids": [item_id], "kind": "negative"},
        "threads.add_user_message": {"thread_id": thread_id, "input": user_input("Why?")},
        "threads.retry_after_item": {"thread_id": thread_id, "item_id": item_id},
    }


@pytest.mark.parametrize("thread_id", [UNKNOWN, "thr_1"], ids=["unknown", "malformed"])
async def test_an_unknown_thread_is_not_found(widget: Widget, thread_id: str) -> None:
    for kind, params in requests_for(thread_id, UNKNOWN).items():
        await widget.finds_nothing(kind, **params)


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_hold_every_item_and_every_thread_once(widget: Widget, order: str) -> None:
    threads = [thread_id_of(await widget.create(f"Question {number}")) for number in range(3)]
    await widget.add(threads[0], "And then?")
    texts, listed = [], []
    after, more = None, True
    while more:
        items = await widget.items(threads[0], order=order, limit=3, after=after)
        texts += [item.content[0].text for item in items.data if item.type == "user_message"]
        after, more = items.after, items.has_more
    after, more = None, True
    while more:
        page = await widget.threads(order=order, limit=2, after=after)
        listed += [thread.id for thread in page.data]
        after, more = page.after, page.has_more

    assert (texts if order == "asc" else texts[::-1]) == ["Question 0", "And then?"]
    assert (listed if order == "asc" else listed[::-1]) == threads


async def test_no_page_is_longer_than_a_hundred(widget: Widget) -> None:
    thread_id = thread_id_of(await widget.create())
    messages = [
        Message(session_id=uuid.UUID(thread_id), role=MessageRole.user, content="Why?").model_dump() for _ in range(100)
    ]
    async with widget.service.tables.engine.begin() as connection:
        await connection.execute(insert(Message), messages)

    page = await widget.items(thread_id, limit=1_000)

    assert (len(page.data), page.has_more) == (100, True)
    assert len((await widget.items(thread_id)).data) == 20


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_the_place_of_another_readers_thread_shows_nothing(service: Service, order: str) -> None:
    owner, stranger = Widget(service), Widget(service, STRANGERS_TOKEN)
    earlier = thread_id_of(await stranger.create("Earlier?"))
    thread_id = thread_id_of(await owner.create())
    later = thread_id_of(await stranger.create("Later?"))

    for after in (earlier, later, UNKNOWN):
        assert (await owner.threads(order=order, after=after)).data == []
        assert (await owner.items(thread_id, order=order, after=after)).data == []


async def test_without_a_token_no_threads_are_listed_not_even_those_of_nobody(service: Service) -> None:
    nobody = Widget(service, token=None)
    thread_id = thread_id_of(await nobody.create())

    assert (await nobody.thread(thread_id)).id == thread_id
    assert (await nobody.threads()).data == []


@pytest.mark.parametrize("after", ["", "x"])
async def test_what_is_no_cursor_is_refused(widget: Widget, after: str) -> None:
    thread_id = thread_id_of(await widget.create())

    for response in (
        await widget.send("threads.list", after=after),
        await widget.send("items.list", thread_id=thread_id, after=after),
    ):
        assert response.status_code == 400
        assert [detail["field"] for detail in response.json()["error"]["details"]] == ["after"]


async def test_the_passages_that_an_answer_cites_are_its_annotations_live_and_read_back(
    widget: Widget, model_server: FakeOpenAI, plug_in: PlugIn
) -> None:
    async def search(_query: Query) -> list[Passage]:
        return [
            Passage(text="It walks.", source="https://book.example.org/gait", title="Gait"),
            PASSAGE,
            Passage(text="It rests.", source="docs/rest.md", title="Resting"),
            Passage(text="It flies.", source="https://book.example.org/fly", title="Flying"),
        ]

    plug_in(search)
    model_server.enqueue(stream("It runs", "【2】", ", rests [3], and walks [2][1].", " It swims [7]."))

    events = await widget.create()

    answer = events[-1].item
    [content] = answer.content
    assert content.text == "It runs[2], rests [3], and walks [2][1]. It swims."
    assert [
        (annotation.source.type, annotation.source.title, annotation.source.url, content.text[: annotation.index])
        for annotation in content.annotations
    ] == [
        ("url", "Gait", "https://book.example.org/gait", "It runs[2], rests [3], and walks [2][1]"),
        ("url", "Running", "https://book.example.org/run", "It runs[2]"),
    ]
    added = [event.update for event in events if kinds([event]) == ["assistant_message.content_part.annotation_added"]]
    assert [update.annotation for update in added] == content.annotations
    assert [update.annotation_index for update in added] == [0, 1]
    assert kinds(events)[-2:] == ["assistant_message.content_part.done", "thread.item.done"]
    assert events[-2].update.content == content
    assert (await widget.items(answer.thread_id, order="desc")).data[0] == answer


async def test_sources_that_were_recorded_without_numbers_are_annotations_too(widget: Widget) -> None:
    events = await widget.create()
    older = [
        {"source": "https://book.example.org/gait", "title": "Gait"},
        {"source": "docs/run.md", "title": "Running"},
    ]
    async with widget.service.tables.engine.begin() as connection:
        await connection.execute(
            update(Message).where(col(Message.role) == MessageRole.assistant).values(sources=older)
        )

    answer = (await widget.items(thread_id_of(events), order="desc")).data[0]

    assert isinstance(answer, AssistantMessageItem)
    [annotation] = answer.content[0].annotations
    assert isinstance(annotation.source, URLSource)
    assert (annotation.source.url, annotation.index) == ("https://book.example.org/gait", None)


async def test_a_retry_looks_up_the_question_with_the_one_before_it(widget: Widget, plug_in: PlugIn) -> None:
    queries: list[tuple[str, str | None, str | None]] = []

    async def search(query: Query) -> list[Passage]:
        queries.append((query.question, await query.previous_question, query.page_url))
        return []

    plug_in(search)
    events = await widget.create("One?")
    thread_id = thread_id_of(events)
    second = await widget.add(thread_id, "Two?")
    await widget.add(thread_id, "Three?")

    await widget.stream("threads.retry_after_item", thread_id=thread_id, item_id=second[0].item.id)
    await widget.stream("threads.retry_after_item", thread_id=thread_id, item_id=events[1].item.id)

    assert queries == [
        ("One?", None, None),
        ("Two?", "One?", None),
        ("Three?", "Two?", None),
        ("Two?", "One?", None),
        ("One?", None, None),
    ]


@on_one_database
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("{", "body"),
        ({"type": "threads.fly", "params": {}}, "body"),
        ({"params": {}}, "body"),
        (
            {
                "type": "threads.add_structured_input",
                "params": {"thread_id": "t", "item_id": "i", "input": {"answers": {"fly": 5}}},
            },
            "threads.add_structured_input.params.input.answers",
        ),
        ({"type": "threads.create", "params": {}}, "threads.create.params.input"),
    ],
)
async def test_a_bad_body_is_refused_by_field(widget: Widget, body: Any, field: str) -> None:
    request: dict[str, Any] = {"content": body} if isinstance(body, str) else {"json": body}
    headers = {**widget.headers, "Content-Type": "application/json"}
    response = await widget.service.client.post("/chatkit", headers=headers, **request)

    assert (response.status_code, response.json()["error"]["code"]) == (400, "validation_error")
    assert [detail["field"] for detail in response.json()["error"]["details"]] == [field]
    assert "fly" not in response.text
    assert await widget.service.tables.sessions() == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (user_input(" "), "The message must not be blank."),
        (user_input("x" * 4001), "The message must not be longer than 4000 characters."),
        (user_input("a\x00b"), "The message must not contain NUL characters."),
        (user_input("a", quoted_text="\x00"), "The selected text must not contain NUL characters."),
    ],
)
async def test_a_question_that_cannot_be_asked_is_told_so_in_the_stream(
    widget: Widget, given: dict[str, Any], message: str
) -> None:
    [error] = await widget.stream("threads.create", input=given)

    assert (error.type, error.message, error.allow_retry) == ("error", message, False)
    assert await widget.service.tables.sessions() == []
    assert not await widget.service.logged("internal.error")


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("What\n is  it?", "What is it?"),
        ("x" * 80, "x" * 80),
        ("ロボット" * 30, ("ロボット" * 30)[:79] + "…"),
    ],
)
async def test_a_thread_is_titled_by_its_question(widget: Widget, question: str, title: str) -> None:
    events = await widget.create(question)

    assert events[0].thread.title == title
    assert [thread.title for thread in (await widget.threads()).data] == [title]


async def test_a_title_has_to_say_something_that_can_be_stored(widget: Widget) -> None:
    thread_id = thread_id_of(await widget.create())
    for title in (" ", "x" * 201, "a\x00b"):
        response = await widget.send("threads.update", thread_id=thread_id, title=title)
        assert [detail["field"] for detail in response.json()["error"]["details"]] == ["title"]


async def test_a_body_that_is_not_said_to_be_json_is_refused(widget: Widget) -> None:
    response = await widget.service.client.post("/chatkit", content='{"type": "threads.list", "params": {}}')

    assert response.status_code == 400


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("attachments.create", {"name": "a.png", "size": 1, "mime_type": "image/png"}),
        ("attachments.delete", {"attachment_id": "a"}),
        ("input.transcribe", {"audio_base64": "", "mime_type": "audio/webm"}),
        ("threads.sync_custom_action", {"thread_id": UNKNOWN, "action": {"type": "a", "payload": {}}}),
    ],
)
async def test_what_this_service_has_not_is_refused(widget: Widget, kind: str, params: dict[str, Any]) -> None:
    response = await widget.send(kind, **params)

    assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported")


@on_one_database
@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("threads.custom_action", {"thread_id": UNKNOWN, "action": {"type": "a", "payload": {}}}),
        ("threads.add_client_tool_output", {"thread_id": UNKNOWN, "result": 1}),
        ("threads.create", {"input": user_input("Why?", attachments=["atc_1"])}),
        ("threads.create", {"input": user_input("Why?", inference_options={"tool_choice": {"id": "search"}})}),
    ],
)
async def test_what_this_service_has_not_is_refused_in_the_stream(
    widget: Widget, kind: str, params: dict[str, Any]
) -> None:
    [event] = await widget.stream(kind, **params)

    assert (event.type, event.allow_retry) == ("error", False)
    assert await widget.service.tables.sessions() == []


async def test_turns_count_against_the_rate_and_lists_do_not(serve: Serve) -> None:
    widget = Widget(await serve(RATE_LIMIT="1/minute"))
    await widget.create()

    [refused] = await widget.stream("threads.create", input=user_input("Again?"))

    assert (refused.type, refused.allow_retry) == ("error", True)
    assert refused.message == "You are asking too often. Please wait a moment."
    assert len((await widget.threads()).data) == 1


async def test_an_overloaded_service_refuses_a_turn_before_it_streams(serve: Serve, model_server: FakeOpenAI) -> None:
    widget = Widget(await serve(MAX_CONCURRENT_TURNS="1"))
    gate = asyncio.Event()
    model_server.enqueue(held(gate, completion("Done.")))
    first = asyncio.create_task(widget.service.chat())
    await model_server.wait_for_requests(1)
    refused = await widget.send("threads.create", input=user_input("Me too?"))
    gate.set()

    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert (await first).status_code == 200


async def test_what_an_overloaded_service_refuses_does_not_count_against_the_rate(
    serve: Serve, model_server: FakeOpenAI
) -> None:
    widget = Widget(await serve(MAX_CONCURRENT_TURNS="1", RATE_LIMIT="2/minute"))
    gate = asyncio.Event()
    model_server.enqueue(held(gate, completion("Done.")))
    first = asyncio.create_task(widget.service.chat())
    await model_server.wait_for_requests(1)
    refused = [await widget.send("threads.create", input=user_input("Me too?")) for _ in range(5)]
    gate.set()
    await first

    assert [response.status_code for response in refused] == [503] * 5
    assert (await widget.create("Me now?"))[-1].type == "thread.item.done"


@pytest.mark.parametrize("kind", ["positive", "negative"])
async def test_an_answer_can_be_rated_before_it_is_recorded(
    widget: Widget, model_server: FakeOpenAI, kind: str
) -> None:
    gate = asyncio.Event()
    model_server.enqueue(stream("A robot ", "walks.", gate=gate))
    asking = asyncio.create_task(widget.create("Why?"))
    await model_server.wait_for_requests(1)
    [question] = await widget.until_recorded(1)
    answer_id = str(uuid.uuid5(question.id, "reply"))

    rated = await widget.send(
        "items.feedback", thread_id=str(question.session_id), item_ids=["no-id", answer_id, UNKNOWN], kind=kind
    )
    gate.set()
    await asking

    assert rated.status_code == 200
    assert (await widget.service.tables.messages())[1].feedback == kind


async def test_while_the_model_is_silent_no_empty_event_is_sent(
    widget: Widget, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.stream.KEEPALIVE_SECONDS", 0.01)
    gate = asyncio.Event()
    model_server.enqueue(held(gate, stream("Well.")))
    body = {"type": "threads.create", "params": {"input": user_input("Why?")}}

    lines = []
    async with widget.service.client.stream("POST", "/chatkit", json=body, headers=widget.headers) as response:
        async for line in response.aiter_lines():
            lines.append(line)
            if line == ": ping":
                gate.set()

    after_comments = [line for comment, line in itertools.pairwise(lines) if comment == ": ping"]
    assert after_comments
    assert "" not in after_comments


async def test_the_widgets_preflight_passes(service: Service) -> None:
    preflight = {
        "Origin": "http://localhost:3000",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "chatkit-frame-instance-id, content-type, x-reader-token",
    }

    response = await service.client.options("/chatkit", headers=preflight)

    assert response.status_code == 200, response.text
    assert response.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"


async def test_without_the_extra_the_address_says_how_to_enable_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.chatkit.find_spec", lambda _name: None)

    response = await service.client.post("/chatkit", content="{")

    assert response.status_code == 404
    assert "uv sync --extra chatkit" in response.json()["error"]["message"]


@pytest.mark.slow
def test_the_application_does_not_import_chatkit() -> None:
    status, output = commands.run(
        "-c", "import app.main, sys; print(sorted({'chatkit', 'agents', 'mcp'} & set(sys.modules)))", folder=ROOT
    )

    assert (status, output.strip()) == (0, "[]")
