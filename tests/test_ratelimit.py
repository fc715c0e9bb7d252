"""How often one reader may ask: in one process, in several that share a Redis, and behind a proxy."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx2
import pytest
from dirty_equals import IsUUID

from app.config import Settings, SettingsError
from tests.conftest import API_KEY, PASSWORD, Serve, Service, eventually
from tests.events import all_events
from tests.fake_openai import FakeOpenAI
from tests.marks import on_one_database
from tests.patience import stretched
from tests.redis import Redis, redis

__all__ = ["redis"]

pytestmark = on_one_database

READERS_PATIENCE_SECONDS = 4
RATE_LIMITED = {
    "error": {
        "code": "rate_limited",
        "message": "You are asking too often. Please wait a moment.",
        "request_id": IsUUID(4),
        "retryable": True,
    }
}
# uvicorn itself believes a proxy on its own host; the readers of these tests are none.
NO_LOCAL_PROXY = {"FORWARDED_ALLOW_IPS": "192.0.2.1"}
BEHIND_PROXY = {**NO_LOCAL_PROXY, "CLIENT_ADDRESS_HEADER": "X-Forwarded-For"}


async def statuses(service: Service, count: int, *forwarded_for: str) -> list[int]:
    """Ask this often, with these X-Forwarded-For lines."""
    headers = [("X-Forwarded-For", line) for line in forwarded_for]
    asked = [await service.client.post("/chat", json={"message": "Why?"}, headers=headers) for _ in range(count)]
    return [response.status_code for response in asked]


def assert_limited(response: httpx2.Response) -> None:
    assert response.status_code == 429
    assert response.json() == RATE_LIMITED
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"


async def test_the_question_after_the_last_allowed_one_is_refused_plain_or_streamed(
    serve: Serve, model_server: FakeOpenAI
) -> None:
    service = await serve(RATE_LIMIT="3/minute")
    service.client.headers["Origin"] = "http://localhost:3000"
    answered = [await service.chat(), (await all_events(service))[-1][0], (await service.chat())]

    refused = [await service.client.post(path, json={"message": "Why?"}) for path in ("/chat", "/chat/stream")]

    assert [getattr(a, "status_code", a) for a in answered] == [200, "done", 200]
    for response in refused:
        assert_limited(response)
    assert len(model_server.requests) == 3
    assert len(await service.tables.messages()) == 6


async def test_only_questions_count(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(RATE_LIMIT="1/minute")
    session_id = (await service.chat()).json()["session_id"]
    assert (await service.chat()).status_code == 429

    responses = [
        await service.client.get("/health"),
        await service.client.get("/health/ready"),
        await service.client.get(f"/chat/{session_id}/messages"),
        await service.client.delete(f"/chat/{session_id}"),
    ]

    assert [response.status_code for response in responses] == [200, 200, 200, 204]


async def test_what_the_model_is_not_asked_does_not_count(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(RATE_LIMIT="2/minute")
    key = {"Idempotency-Key": "5bd1ae1d-4c8a-4f3b-9d5c-0d7c0d6e7a10"}
    invalid = [
        await service.client.post("/chat", json=body) for body in ({}, {"message": " "}, {"message": "x" * 5_000})
    ]
    first = await service.client.post("/chat", json={"message": "Why?"}, headers=key)

    replayed = [await service.client.post("/chat", json={"message": "Why?"}, headers=key) for _ in range(5)]
    conflicting = await service.client.post("/chat", json={"message": "How?"}, headers=key)

    assert [response.status_code for response in invalid] == [400] * 3
    assert [response.json() for response in replayed] == [first.json()] * 5
    assert conflicting.status_code == 409
    assert [(await service.chat()).status_code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize(
    ("addresses", "readers"),
    [
        ([f"2001:db8:1:2::{n:x}" for n in range(1, 6)], 1),
        (["2001:db8:1:2:ffff::1", "[2001:db8:1:2::9]", "2001:DB8:1:2::1%eth0"], 1),
        (["2001:db8:1:2::1", "2001:db8:1:3::1"], 2),
        (["192.0.2.1", "192.0.2.2"], 2),
        (["192.0.2.1", "::ffff:192.0.2.1"], 1),
        (["192.0.2.1:5555", "192.0.2.1:443", "192.0.2.1"], 1),
        (["[2001:db8::6]:443", "[2001:db8::6]", "2001:db8::7"], 1),
        (["unknown", "unknown"], 1),
    ],
)
async def test_one_reader_is_one_address_however_many_it_has(
    serve: Serve, model_server: FakeOpenAI, addresses: list[str], readers: int
) -> None:
    service = await serve(RATE_LIMIT="1/minute", **BEHIND_PROXY)

    answered = [status for address in addresses for status in await statuses(service, 1, address)]

    assert answered.count(200) == readers
    assert len(model_server.requests) == readers


async def test_a_recorded_answer_is_had_again_when_the_allowance_is_used_up(
    serve: Serve, model_server: FakeOpenAI
) -> None:
    service = await serve(RATE_LIMIT="1/minute")
    key, another = ({"Idempotency-Key": str(uuid.uuid4())} for _ in range(2))
    first = await service.client.post("/chat", json={"message": "Why?"}, headers=key)

    replayed = await service.client.post("/chat", json={"message": "Why?"}, headers=key)
    refused = await service.client.post("/chat", json={"message": "Why?"}, headers=another)

    assert (replayed.status_code, replayed.json()) == (200, first.json())
    assert refused.status_code == 429
    assert len(model_server.requests) == 1
    assert len(await service.tables.messages()) == 2


async def asked_with(service: Service, token: str, count: int = 1) -> list[int]:
    """Ask this often as the reader with the token."""
    headers = {"X-Reader-Token": token}
    asked = [await service.client.post("/chat", json={"message": "Why?"}, headers=headers) for _ in range(count)]
    return [response.status_code for response in asked]


async def test_each_reader_of_a_school_has_an_allowance_and_the_school_ten(
    serve: Serve, model_server: FakeOpenAI
) -> None:
    service = await serve(RATE_LIMIT="2/minute", **BEHIND_PROXY)
    service.client.headers["X-Forwarded-For"] = "203.0.113.1"

    for reader in range(9):
        assert await asked_with(service, f"reader-{reader}-of-the-school", 3) == [200, 200, 429]
    without_token = await statuses(service, 3)
    # Whoever makes up a reader for each question gets no further than the school.
    made_up = await asked_with(service, "one-more-reader-of-the-school")
    service.client.headers["X-Forwarded-For"] = "203.0.113.2"

    assert without_token == [200, 200, 429]
    assert made_up == [429]
    assert await asked_with(service, "a-reader-at-another-address") == [200]
    # Nor does a reader who moves on.
    assert await asked_with(service, "reader-1-of-the-school") == [429]


async def test_of_several_rates_each_holds(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(RATE_LIMIT="2/second; 3/hour")

    async def third_is_answered() -> bool:
        return (await service.chat()).status_code == 200

    first = [(await service.chat()).status_code for _ in range(2)]
    await eventually(third_is_answered)
    last = await service.chat()

    assert first == [200, 200]
    assert last.status_code == 429
    assert 3_500 < int(last.headers["retry-after"]) <= 3_600


async def test_questions_that_a_short_rate_refuses_do_not_count_in_a_longer_one(
    serve: Serve, model_server: FakeOpenAI
) -> None:
    service = await serve(RATE_LIMIT="4/day;1/second")

    at_once = [response.status_code for response in await asyncio.gather(*[service.chat() for _ in range(12)])]

    async def is_answered() -> bool:
        return (await service.chat()).status_code == 200

    assert at_once.count(200) == 1
    await eventually(is_answered)


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "CF-Connecting-IP"])
async def test_a_proxy_that_nobody_named_is_in_the_log_once(
    serve: Serve, model_server: FakeOpenAI, header: str
) -> None:
    service = await serve(RATE_LIMIT="20/minute", **NO_LOCAL_PROXY)
    await service.chat()
    assert service.log("ratelimit.proxy_found") == []

    for _ in range(2):
        await service.client.post("/chat", json={"message": "Why?"}, headers={header: "for=203.0.113.1"})

    [warning] = service.log("ratelimit.proxy_found")
    assert (warning["level"], warning["set"], warning["headers"]) == (
        "WARNING",
        "CLIENT_ADDRESS_HEADER",
        [header.lower()],
    )
    assert "203.0.113.1" not in service.output


async def test_a_proxy_that_the_operator_or_the_server_knows_is_not_in_the_log(
    serve: Serve, model_server: FakeOpenAI
) -> None:
    # uvicorn believes what a proxy on its own host says.
    for environment in (BEHIND_PROXY, {"FORWARDED_ALLOW_IPS": "127.0.0.1"}):
        service = await serve(RATE_LIMIT="20/minute", **environment)
        await statuses(service, 1, "203.0.113.1")
        assert service.log("ratelimit.proxy_found") == []


async def test_nobody_is_limited_by_default(service: Service, model_server: FakeOpenAI) -> None:
    assert await statuses(service, 40) == [200] * 40


async def test_readers_behind_a_proxy_are_told_apart(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(RATE_LIMIT="3/minute", **BEHIND_PROXY)

    assert await statuses(service, 4, "203.0.113.1") == [200, 200, 200, 429]
    assert await statuses(service, 4, "203.0.113.2") == [200, 200, 200, 429]
    assert await statuses(service, 1, "203.0.113.1") == [429]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(("{}, 203.0.113.1",), id="in the same line"),
        pytest.param(("{},203.0.113.1",), id="without a blank"),
        pytest.param(("{}", "203.0.113.1"), id="in a line of its own"),
        pytest.param(("{}, {}", "{}, 203.0.113.1"), id="in several lines"),
    ],
)
async def test_a_reader_cannot_escape_by_naming_other_addresses(
    serve: Serve, model_server: FakeOpenAI, lines: tuple[str, ...]
) -> None:
    service = await serve(RATE_LIMIT="2/minute", **BEHIND_PROXY)

    asked = [await statuses(service, 1, *(line.replace("{}", f"198.51.100.{n}") for line in lines)) for n in range(4)]

    assert asked == [[200], [200], [429], [429]]
    assert await statuses(service, 1, "203.0.113.1") == [429]


async def test_a_header_that_the_operator_did_not_name_is_ignored(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(RATE_LIMIT="2/minute", **NO_LOCAL_PROXY)

    assert [await statuses(service, 1, f"198.51.100.{n}") for n in range(3)] == [[200], [200], [429]]


async def test_without_the_header_the_connection_tells_the_address(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(RATE_LIMIT="2/minute", **BEHIND_PROXY)

    assert await statuses(service, 3) == [200, 200, 429]
    assert await statuses(service, 1, "") == [429]


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("RATE_LIMIT", "often"),
        ("RATE_LIMIT", "30"),
        ("RATE_LIMIT", "30/fortnight"),
        ("RATE_LIMIT", "-1/minute"),
        ("RATE_LIMIT", "0/minute"),
        ("RATE_LIMIT", "30/minute;0/day"),
        ("RATE_LIMIT", "30/minute;often"),
        ("DAILY_TOKEN_BUDGET", "0"),
        ("DAILY_TOKEN_BUDGET", "a lot"),
        ("RATE_LIMIT_STORAGE", "localhost:6379"),
        ("RATE_LIMIT_STORAGE", f"memcached://:{PASSWORD}@localhost:11211"),
        ("RATE_LIMIT_STORAGE", f"redis://:{PASSWORD}@localhost:port"),
        ("RATE_LIMIT_STORAGE", f"redis://:{PASSWORD}/#@localhost:6379"),
    ],
)
def test_a_malformed_setting_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, database_url: str, variable: str, text: str
) -> None:
    for name, value in {"DATABASE_URL": database_url, "OPENAI_API_KEY": API_KEY, variable: text}.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError) as refused:
        Settings.load()

    [_, complaint] = str(refused.value).splitlines()
    assert complaint.split()[0] == variable
    assert PASSWORD not in complaint


# Shared between processes.


async def test_services_with_one_redis_count_together(serve: Serve, model_server: FakeOpenAI, redis: Redis) -> None:
    environment = {**BEHIND_PROXY, "RATE_LIMIT": "3/minute", "RATE_LIMIT_STORAGE": redis.url}
    one, two = [await serve(**environment) for _ in range(2)]
    for service in (one, two):
        service.client.headers["Origin"] = "http://localhost:3000"

    answered = [await statuses(service, 1, "203.0.113.1") for service in (one, two, one)]

    assert answered == [[200]] * 3
    for service in (one, two):
        headers = {"X-Forwarded-For": "203.0.113.1"}
        assert_limited(await service.client.post("/chat", json={"message": "Why?"}, headers=headers))
        assert_limited(await service.client.post("/chat/stream", json={"message": "Why?"}, headers=headers))
    assert await statuses(two, 1, "203.0.113.2") == [200]
    assert one.log("ratelimit.unavailable") == two.log("ratelimit.unavailable") == []


async def test_of_many_questions_at_once_no_more_than_allowed_get_through(
    serve: Serve, model_server: FakeOpenAI, redis: Redis
) -> None:
    services = [await serve(RATE_LIMIT="5/minute", RATE_LIMIT_STORAGE=redis.url) for _ in range(2)]

    responses = await asyncio.gather(*(services[n % 2].chat() for n in range(20)))

    assert sorted(response.status_code for response in responses) == [200] * 5 + [429] * 15


async def test_a_redis_that_goes_away_limits_nobody_until_it_is_back(
    serve: Serve, model_server: FakeOpenAI, redis: Redis
) -> None:
    service = await serve(RATE_LIMIT="1/minute", RATE_LIMIT_STORAGE=redis.url)
    before = await statuses(service, 2)
    redis.stop()
    async with asyncio.timeout(stretched(READERS_PATIENCE_SECONDS)):
        meanwhile = await statuses(service, 3)
    redis.start()
    await eventually(redis.answers)

    assert before == [200, 429]
    assert meanwhile == [200, 200, 200]
    assert await statuses(service, 2) == [200, 429]


@asynccontextmanager
async def refused_password(redis: Redis) -> AsyncIterator[str]:
    yield redis.url.replace(PASSWORD, f"{PASSWORD}-of-yesterday")


@asynccontextmanager
async def nothing_there(redis: Redis) -> AsyncIterator[str]:
    redis.stop()
    yield redis.url


@asynccontextmanager
async def web_server(_redis: Redis, greeting: bytes = b"HTTP/1.1 400 Bad Request\r\n\r\n") -> AsyncIterator[str]:
    connections: list[asyncio.StreamWriter] = []

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.write(greeting)

    server = await asyncio.start_server(accept, "127.0.0.1")
    yield f"redis://:{PASSWORD}@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    for connection in connections:
        connection.close()


@asynccontextmanager
async def silence(redis: Redis) -> AsyncIterator[str]:
    async with web_server(redis, greeting=b"") as url:
        yield url


@pytest.mark.slow
@pytest.mark.parametrize("address", [refused_password, nothing_there, web_server, silence])
async def test_a_redis_that_does_not_serve_limits_nobody_and_is_in_the_log(
    serve: Serve, model_server: FakeOpenAI, redis: Redis, address: Callable[[Redis], AbstractAsyncContextManager[str]]
) -> None:
    async with address(redis) as redis_url:
        service = await serve(RATE_LIMIT="1/minute", RATE_LIMIT_STORAGE=redis_url)

        async with asyncio.timeout(stretched(READERS_PATIENCE_SECONDS)):
            answered = await statuses(service, 2)

    assert answered == [200, 200]
    records = service.log("ratelimit.unavailable")
    assert [record["level"] for record in records] == ["WARNING", "WARNING"]
    assert all("limits.errors.StorageError" in record["traceback"] for record in records)
    assert PASSWORD not in service.output
