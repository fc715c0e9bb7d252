"""`POST /chat/stream`, over a real socket, on both databases."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from dirty_equals import IsStr, IsUUID

from app.errors import render
from app.models import MessageRole
from app.retrieval import Passage, Query
from tests.conftest import PlugIn, Serve, Service, eventually
from tests.events import all_events, events_of, streamed
from tests.fake_openai import (
    Exchange,
    FakeOpenAI,
    Reply,
    cut_stream,
    empty_choices,
    error_event,
    failure,
    held,
    html_page,
    stream,
)
from tests.marks import on_one_database
from tests.patience import PATIENCE_SECONDS

pytestmark = on_one_database


async def test_an_answer_comes_as_session_deltas_and_done(service: Service, model_server: FakeOpenAI) -> None:
    model_server.enqueue(stream("A robot ", "that walks", "."))

    async with streamed(service, "What is a humanoid?") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        events = [event async for event in events_of(response)]

    (_, session), *deltas, (_, done) = events
    assert [name for name, _ in events] == ["session", "delta", "delta", "delta", "done"]
    assert session == {"session_id": IsUUID(4)}
    assert [delta for _, delta in deltas] == [{"text": "A robot "}, {"text": "that walks"}, {"text": "."}]
    _, reply = await service.tables.messages()
    assert done == {
        "response": "A robot that walks.",
        "timestamp": IsStr,
        "message_id": str(reply.id),
        "sources": [],
        **session,
    }
    assert await service.tables.replies() == ["A robot that walks."]


async def test_a_streamed_turn_continues_its_session_like_any_other(service: Service, model_server: FakeOpenAI) -> None:
    first = (await service.chat("One?")).json()

    events = await all_events(service, "Two?", session_id=first["session_id"])

    assert events[-1][1]["session_id"] == first["session_id"]
    assert [m["content"] for m in model_server.prompt[1:]] == ["One?", "Answer 1 to: One?", "Two?"]


async def test_the_first_piece_arrives_while_the_model_still_speaks(service: Service, model_server: FakeOpenAI) -> None:
    gate = asyncio.Event()
    model_server.enqueue(stream("Well, ", "no.", gate=gate))

    async with streamed(service) as response:
        events = events_of(response)
        assert [(await anext(events))[0], await anext(events)] == ["session", ("delta", {"text": "Well, "})]
        assert [m.role for m in await service.tables.messages()] == [MessageRole.user]
        gate.set()
        assert [name async for name, _ in events] == ["delta", "done"]


async def test_what_a_provider_adds_between_the_pieces_is_passed_over(
    service: Service, model_server: FakeOpenAI
) -> None:
    async def annotate_and_stop(exchange: Exchange) -> None:
        for choices in (
            '[{"index": 0, "finish_reason": null, "content_filter_offsets": {}}]',
            '[{"index": 0, "delta": null, "finish_reason": null}]',
            "null",
            '[{"index": 0, "delta": {}, "finish_reason": "stop"}]',
        ):
            await exchange.event(f'{{"choices": {choices}}}')
        await exchange.close()

    model_server.enqueue(stream("It walks.", then=annotate_and_stop))

    assert [name for name, _ in await all_events(service)] == ["session", "delta", "done"]
    assert await service.tables.replies() == ["It walks."]


async def test_while_the_model_is_silent_comments_keep_the_stream_open(
    service: Service, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.stream.KEEPALIVE_SECONDS", 0.01)
    gate = asyncio.Event()
    model_server.enqueue(stream("Well, ", "no.", gate=gate))

    async with streamed(service) as response:
        lines = [line async for line in _opening_gate(response.aiter_lines(), gate, at=": ping")]

    assert lines.count(": ping") >= 1
    assert [line for line in lines if line.startswith("event: ")] == [
        "event: session",
        "event: delta",
        "event: delta",
        "event: done",
    ]


async def test_a_stream_that_was_kept_open_and_then_fails_names_its_session(
    service: Service, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.stream.KEEPALIVE_SECONDS", 0.01)
    gate = asyncio.Event()
    model_server.enqueue(held(gate, failure(503)))

    async with streamed(service) as response:
        events = [line async for line in _opening_gate(response.aiter_lines(), gate, at=": ping")]

    [session] = await service.tables.sessions()
    told = [line for line in events if line and not line.startswith(":")]
    assert told[:3] == ["event: session", f'data: {{"session_id":"{session.id}"}}', "event: error"]


async def _opening_gate(lines: AsyncIterator[str], gate: asyncio.Event, *, at: str) -> AsyncIterator[str]:
    async for line in lines:
        if line == at:
            gate.set()
        yield line


async def test_while_the_model_speaks_no_comments_come_in_between(
    service: Service, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.stream.KEEPALIVE_SECONDS", 0.5)
    gate, second_gate = asyncio.Event(), asyncio.Event()

    async def speak_on(exchange: Exchange) -> None:
        await second_gate.wait()
        await exchange.close()

    model_server.enqueue(stream("Well, ", "no.", gate=gate, then=speak_on))

    async with streamed(service) as response:
        silences, heard = [], asyncio.get_running_loop().time()
        async for line in response.aiter_lines():
            if not line:
                continue
            now = asyncio.get_running_loop().time()
            if line == ": ping":
                silences.append(now - heard)
                (second_gate if gate.is_set() else gate).set()
            heard = now

    # A comment comes after a whole silence, which begins anew with each piece and each comment.
    assert len(silences) >= 2
    assert min(silences) > 0.4


async def test_a_failure_has_its_proper_status_also_when_passages_were_found(
    service: Service, model_server: FakeOpenAI, plug_in: PlugIn
) -> None:
    async def find(_query: Query) -> list[Passage]:
        return [Passage("A biped has two legs.", "https://book.example.org/gait", "Gait")]

    plug_in(find)
    model_server.enqueue(failure(429))

    response = await service.client.post("/chat/stream", json={"message": "Why?"})

    assert (response.status_code, response.json()["error"]["code"]) == (500, "openai_rate_limited")


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        pytest.param(failure(401), "openai_error", id="401"),
        pytest.param(failure(429, **{"retry-after": "7"}), "openai_rate_limited", id="429"),
        pytest.param(html_page(), "openai_error", id="HTML"),
        pytest.param(empty_choices(), "openai_error", id="no choices"),
        pytest.param(stream(then=error_event), "openai_error", id="error event at once"),
        pytest.param(stream(then=cut_stream), "openai_error", id="cut at once"),
    ],
)
async def test_what_fails_before_the_first_piece_has_its_proper_status(
    service: Service, model_server: FakeOpenAI, reply: Reply, code: str
) -> None:
    model_server.enqueue(reply)

    response = await service.client.post("/chat/stream", json={"message": "Why?"})

    assert (response.status_code, response.json()["error"]["code"]) == (500, code)
    assert [m.content for m in await service.tables.messages()] == ["Why?"]


@pytest.mark.parametrize("body", [{"message": " "}, {}, {"message": "x" * 4001}])
async def test_an_invalid_question_is_refused_before_anything_streams(service: Service, body: dict[str, str]) -> None:
    response = await service.client.post("/chat/stream", json=body)

    assert (response.status_code, response.json()["error"]["code"]) == (400, "validation_error")


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(stream("Half an ", then=error_event), id="error event"),
        pytest.param(stream("Half an ", then=cut_stream), id="cut"),
        pytest.param(stream("Half an ", finish_reason=None), id="no finish reason"),
        pytest.param(stream("Half an ", finish_reason="content_filter"), id="content filter"),
    ],
)
async def test_half_an_answer_ends_in_error_and_is_not_recorded(
    service: Service, model_server: FakeOpenAI, reply: Reply
) -> None:
    model_server.enqueue(reply)

    events = await all_events(service)

    assert [name for name, _ in events] == ["session", "delta", "error"]
    assert events[-1][1] == {
        "error": {
            "code": "openai_error",
            "message": "The assistant could not answer. Please try again.",
            "request_id": IsUUID(4),
            "retryable": True,
        }
    }
    assert await service.tables.replies() == []
    [record] = service.log("openai.error")
    assert record["request_id"] == events[-1][1]["error"]["request_id"]


async def test_a_stream_that_stalls_ends_in_error_at_the_deadline(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(OPENAI_TIMEOUT_SECONDS="2")
    model_server.enqueue(stream("Half an ", "answer", gate=asyncio.Event()))

    events = await all_events(service)

    assert [name for name, _ in events] == ["session", "delta", "error"]
    assert events[-1][1]["error"]["code"] == "openai_timeout"
    assert await service.tables.replies() == []


async def test_what_the_wire_cannot_carry_is_replaced_in_stream_and_record_alike(
    service: Service, model_server: FakeOpenAI
) -> None:
    model_server.enqueue(stream("a\x00b", "c\ud800d"))

    events = await all_events(service)

    assert "".join(event["text"] for name, event in events if name == "delta") == "a\ufffdbc\ufffdd"
    assert await service.tables.replies() == ["a\ufffdbc\ufffdd"]


async def test_a_reader_who_leaves_finds_the_answer_when_coming_back(
    service: Service, model_server: FakeOpenAI
) -> None:
    gate = asyncio.Event()
    model_server.enqueue(stream("It ", "walks.", gate=gate))

    async with streamed(service) as response:
        events = events_of(response)
        session = await anext(events)
        await anext(events)
    gate.set()

    await eventually(service.tables.replies)
    assert await service.tables.replies() == ["It walks."]
    page = await service.client.get(f"/chat/{session[1]['session_id']}/messages")
    assert [m["content"] for m in page.json()["data"]] == ["Why?", "It walks."]
    assert [record for record in service.log() if record["level"] == "ERROR"] == []


async def test_a_turn_that_fails_after_its_reader_left_is_in_the_log(
    service: Service, model_server: FakeOpenAI
) -> None:
    gate = asyncio.Event()
    model_server.enqueue(stream("It ", "walks.", gate=gate, finish_reason=None))

    async with streamed(service) as response:
        events = events_of(response)
        await anext(events)
        await anext(events)
    await eventually(lambda: service.logged("request"))
    gate.set()

    await eventually(lambda: service.logged("openai.error"))
    assert await service.tables.replies() == []


async def test_a_reader_who_takes_nothing_loses_the_stream_and_not_the_answer(
    serve: Serve, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await serve(MAX_ANSWER_CHARS="100000000")
    cut_off = asyncio.Event()

    def render_and_tell(error: BaseException) -> Any:
        cut_off.set()
        return render(error)

    monkeypatch.setattr("app.stream.STALLED_READER_SECONDS", 0.1)
    monkeypatch.setattr("app.stream.render", render_and_tell)
    answer = ["It walks. " * 10_000] * 100  # More than what the network holds for a reader.
    model_server.enqueue(stream(*answer))
    url, body = service.client.base_url, b'{"message": "Why?"}'
    head = f"POST /chat/stream HTTP/1.1\r\nHost: {url.host}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await cut_off.wait()
            told = await reader.read()
    finally:
        writer.transport.abort()

    await eventually(service.tables.replies)
    assert await service.tables.replies() == ["".join(answer)]
    assert len(told) < len("".join(answer))
    assert b"event: done" not in told
    assert b'"code":"overloaded"' in told.rpartition(b"event: error")[2]
