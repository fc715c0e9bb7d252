"""Two instances on one database and one Redis, behind a proxy that sends each connection to the next one."""

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx2
import pytest

from tests.conftest import Serve, Service
from tests.fake_openai import FakeOpenAI, held
from tests.marks import on_postgresql
from tests.patience import PATIENCE_SECONDS
from tests.redis import Redis, redis

__all__ = ["redis"]

pytestmark = on_postgresql


@asynccontextmanager
async def proxy(services: Sequence[Service]) -> AsyncIterator[httpx2.AsyncClient]:
    """A client whose every request goes to the next service."""
    addresses = itertools.cycle([(s.client.base_url.host, s.client.base_url.port) for s in services])

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = next(addresses)
        upstream_reader, upstream_writer = await asyncio.open_connection(host, port)
        await asyncio.gather(copy(reader, upstream_writer), copy(upstream_reader, writer), return_exceptions=True)

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        headers = {"Connection": "close", "X-Forwarded-For": "203.0.113.1"}
        async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE_SECONDS) as client:
            yield client


@pytest.fixture
async def services(serve: Serve, model_server: FakeOpenAI, redis: Redis) -> list[Service]:
    environment = {
        "RATE_LIMIT": "4/minute",
        "RATE_LIMIT_STORAGE": redis.url,
        "CLIENT_ADDRESS_HEADER": "X-Forwarded-For",
        "FORWARDED_ALLOW_IPS": "192.0.2.1",
    }
    return [await serve(**environment) for _ in range(2)]


async def test_a_conversation_and_its_rate_go_on_in_the_other_instance(
    services: list[Service], model_server: FakeOpenAI
) -> None:
    async with proxy(services) as client:
        first = (await client.post("/chat", json={"message": "One?"})).json()
        ask = {"message": "And?", "session_id": first["session_id"]}
        rest = [await client.post("/chat", json=ask) for _ in range(5)]

    assert [response.status_code for response in rest] == [200, 200, 200, 429, 429]
    assert {response.json()["session_id"] for response in rest[:3]} == {first["session_id"]}
    assert [m["content"] for m in model_server.prompt[1:]].count("And?") == 3
    assert len(await services[0].tables.messages()) == 8


async def test_a_key_is_claimed_in_one_instance_and_answered_from_the_other(
    services: list[Service], model_server: FakeOpenAI
) -> None:
    gate, headers, ask = asyncio.Event(), {"Idempotency-Key": str(uuid.uuid4())}, {"message": "Why?"}
    model_server.enqueue(held(gate))
    async with proxy(services) as client:
        asking = asyncio.create_task(client.post("/chat", json=ask, headers=headers))
        await model_server.wait_for_requests(1)
        meanwhile = await client.post("/chat", json=ask, headers=headers)
        gate.set()
        answered = await asking
        again = [await client.post("/chat", json=ask, headers=headers) for _ in range(4)]

    assert (meanwhile.status_code, meanwhile.json()["error"]["code"]) == (409, "turn_in_progress")
    assert [response.json() for response in again] == [answered.json()] * 4
    assert len(model_server.requests) == 1
