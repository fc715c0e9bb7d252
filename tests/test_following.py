"""A stream that is asked for again while its answer is on its way, as after a reload of the page."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from app.stream import MOST_FOLLOWERS
from tests.conftest import Serve, Service, eventually
from tests.events import Event, events_of
from tests.fake_openai import FakeOpenAI, failure, held, stall, stream
from tests.marks import on_one_database

pytestmark = on_one_database

QUESTION = "Why does it walk?"


@asynccontextmanager
async def streaming(
    service: Service, key: str, message: str = QUESTION, token: str | None = None
) -> AsyncIterator[AsyncIterator[Event]]:
    headers = {"Idempotency-Key": key} | ({"X-Reader-Token": token} if token else {})
    async with service.client.stream("POST", "/chat/stream", json={"message": message}, headers=headers) as response:
        yield events_of(response)


async def next_events(events: AsyncIterator[Event], count: int) -> list[Event]:
    return [await anext(events) for _ in range(count)]


async def test_the_same_request_again_is_told_everything_from_the_first_piece(
    service: Service, model_server: FakeOpenAI
) -> None:
    key, gate = str(uuid.uuid4()), asyncio.Event()
    model_server.enqueue(stream("It ", "walks.", gate=gate))

    async with streaming(service, key) as first:
        told = await next_events(first, 2)
        async with streaming(service, key) as second:
            told_again = await next_events(second, 2)
            gate.set()
            rest, rest_again = [e async for e in first], [e async for e in second]

    assert told == told_again
    assert rest == rest_again
    assert [name for name, _ in told + rest] == ["session", "delta", "delta", "done"]
    assert len(model_server.requests) == 1
    assert len(await service.tables.messages()) == 2


async def test_a_reader_who_left_and_comes_back_gets_the_whole_answer(
    service: Service, model_server: FakeOpenAI
) -> None:
    key, gate = str(uuid.uuid4()), asyncio.Event()
    model_server.enqueue(stream("It ", "walks.", gate=gate))
    async with streaming(service, key) as events:
        await next_events(events, 2)

    async with AsyncExitStack() as stack:
        events = await stack.enter_async_context(streaming(service, key))
        beginning = await next_events(events, 2)
        gate.set()
        ending = [event async for event in events]

    assert [name for name, _ in beginning + ending] == ["session", "delta", "delta", "done"]
    assert ending[-1][1]["response"] == "It walks."


async def test_whoever_follows_gets_the_failure_and_the_log_says_of_which_request_it_is(
    service: Service, model_server: FakeOpenAI
) -> None:
    key, gate = str(uuid.uuid4()), asyncio.Event()
    model_server.enqueue(stream("It ", "walks.", gate=gate, finish_reason=None))

    async with streaming(service, key) as first, streaming(service, key) as second:
        gate.set()
        endings = [[e async for e in first][-1], [e async for e in second][-1]]

    assert [(name, data["error"]["code"]) for name, data in endings] == [("error", "openai_error")] * 2
    failure_of_turn, failure_of_follower = service.log("openai.error")
    assert "traceback" in failure_of_turn
    assert "traceback" not in failure_of_follower
    assert failure_of_follower["followed_request_id"] == failure_of_turn["request_id"]
    assert failure_of_follower["request_id"] != failure_of_turn["request_id"]
    assert {record["session_id"] for record in service.log("request")} == {failure_of_turn["session_id"]}


async def test_what_a_provider_quotes_stays_out_of_the_log_of_those_who_follow(
    service: Service, model_server: FakeOpenAI
) -> None:
    key, gate = str(uuid.uuid4()), asyncio.Event()
    model_server.enqueue(held(gate, failure(500, f"cannot answer {QUESTION}")))
    headers = {"Idempotency-Key": key}
    request: dict[str, Any] = {"json": {"message": QUESTION}, "headers": headers}

    asking = [asyncio.create_task(service.client.post("/chat/stream", **request)) for _ in range(3)]
    await model_server.wait_for_requests(1)
    gate.set()
    responses = await asyncio.gather(*asking)

    assert [response.status_code for response in responses] == [500] * 3
    assert QUESTION not in service.output


@pytest.mark.parametrize(("message", "token"), [("Another question?", None), (QUESTION, "a-token-of-another-00")])
async def test_the_key_of_another_request_does_not_follow(
    service: Service, model_server: FakeOpenAI, message: str, token: str | None
) -> None:
    key, gate = str(uuid.uuid4()), asyncio.Event()
    model_server.enqueue(stream("It ", "walks.", gate=gate))

    async with streaming(service, key) as events:
        await next_events(events, 2)
        headers = {"Idempotency-Key": key} | ({"X-Reader-Token": token} if token else {})
        other = await service.client.post("/chat/stream", json={"message": message}, headers=headers)
        gate.set()
        assert [name async for name, _ in events][-1] == "done"

    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")


async def test_to_follow_is_not_to_ask(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(RATE_LIMIT="1/minute", MAX_CONCURRENT_TURNS="1")
    key, gate = str(uuid.uuid4()), asyncio.Event()
    model_server.enqueue(stream("It ", "walks.", gate=gate))

    async with streaming(service, key) as first:
        await next_events(first, 2)
        async with streaming(service, key) as second:
            await next_events(second, 2)
            gate.set()
            assert [name async for name, _ in second][-1] == "done"


async def test_one_turn_is_followed_by_a_few_only(service: Service, model_server: FakeOpenAI) -> None:
    key, gate = str(uuid.uuid4()), asyncio.Event()
    model_server.enqueue(stream("It ", "walks.", gate=gate))

    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(streaming(service, key)) for _ in range(MOST_FOLLOWERS)]
        for events in streams:
            await next_events(events, 2)
        headers = {"Idempotency-Key": key}
        refused = await service.client.post("/chat/stream", json={"message": QUESTION}, headers=headers)
        gate.set()
        for events in streams:
            assert [name async for name, _ in events][-1] == "done"

    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "turn_in_progress")


async def test_a_follower_who_leaves_makes_room_for_another(service: Service, model_server: FakeOpenAI) -> None:
    key, gate = str(uuid.uuid4()), asyncio.Event()
    model_server.enqueue(stream("It ", "walks.", gate=gate))

    async def is_followed_again() -> bool:
        async with streaming(service, key) as events:
            try:
                return await next_events(events, 2) != []
            except StopAsyncIteration:  # It was refused.
                return False

    async with AsyncExitStack() as stack:
        for _ in range(MOST_FOLLOWERS - 1):
            await next_events(await stack.enter_async_context(streaming(service, key)), 2)
        for _ in range(MOST_FOLLOWERS):
            await eventually(is_followed_again)
        gate.set()

    assert len(model_server.requests) == 1


async def test_a_question_that_failed_is_asked_anew(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(OPENAI_TIMEOUT_SECONDS="0.2")
    key = str(uuid.uuid4())
    model_server.enqueue(stall, stream("It walks."))
    headers = {"Idempotency-Key": key}

    failed = await service.client.post("/chat/stream", json={"message": QUESTION}, headers=headers)
    async with streaming(service, key) as events:
        names = [name async for name, _ in events]

    assert failed.json()["error"]["code"] == "openai_timeout"
    assert names == ["session", "delta", "done"]
    assert len(model_server.requests) == 2
