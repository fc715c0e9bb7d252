"""What the records of a request and of a model call say, and whose they are."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from dirty_equals import AnyThing, IsFloat, IsOneOf, IsPositiveFloat, IsStr, IsUUID

from tests.conftest import Serve, Service, eventually
from tests.fake_openai import (
    REQUEST_ID,
    FakeOpenAI,
    Reply,
    completion,
    cut,
    empty_choices,
    failure,
    held,
    html_page,
    raw_body,
    refusal,
    stall,
)
from tests.marks import on_one_database
from tests.records import TIME


@on_one_database
async def test_a_well_formed_request_id_is_kept(service: Service) -> None:
    for given in ("7", "req_1.a:b-c", str(uuid.uuid4()), "x" * 128):
        response = await service.client.get("/health", headers={"X-Request-ID": given})

        assert response.headers.get_list("X-Request-ID") == [given]
        assert service.log("request")[-1]["request_id"] == given


@on_one_database
async def test_any_other_request_id_is_replaced(service: Service) -> None:
    for given in (b"", b"x" * 129, b"two words", b"a\tb", b'{"level":"ERROR"}', b"\xe9t\xe9", b"a,b"):
        response = await service.client.get("/health", headers=[(b"X-Request-ID", given)])

        assert response.headers.get_list("X-Request-ID") == [IsUUID(4)]
        assert service.log("request")[-1]["request_id"] == response.headers["X-Request-ID"]


@on_one_database
async def test_every_response_names_its_request(service: Service, model_server: FakeOpenAI) -> None:
    model_server.enqueue(failure(500))
    preflight = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    responses = [
        await service.chat(),
        await service.chat(),
        await service.client.post("/chat", json={}),
        await service.client.get("/nowhere"),
        await service.client.options("/chat", headers=preflight),
        await service.client.options("/chat", headers={**preflight, "Origin": "https://stranger.example"}),
    ]

    assert [response.status_code for response in responses] == [500, 200, 400, 404, 200, 400]
    ids = [response.headers["X-Request-ID"] for response in responses]
    assert len(set(ids)) == len(ids)
    assert [(record["request_id"], record["status"]) for record in service.log("request")] == [
        (response.headers["X-Request-ID"], response.status_code) for response in responses
    ]


@on_one_database
async def test_a_request_is_recorded_with_what_it_was_and_what_it_took(service: Service) -> None:
    response = await service.client.post(
        "/chat?token=in-the-query",
        json={"message": "Hello"},
        headers={
            "User-Agent": "reader",
            "Authorization": "Bearer private",
            "Proxy-Authorization": "private",
            "Cookie": "a=private",
            "X-Api-Key": "private",
            "Api-Key": "private",
            "X-Auth-Token": "private",
            "Referer": "https://book.example.org/?private",
            "X-JWT": "private",
            "X-Credential": "private",
            "X-Signature": "private",
            "Cf-Access-Jwt-Assertion": "private",
            "X-User-Email": "private@example.org",
        },
    )

    assert response.status_code == 200
    assert service.log("request") == [
        {
            "time": TIME,
            "level": "INFO",
            "logger": "app.logs",
            "event": "request",
            "request_id": response.headers["X-Request-ID"],
            "session_id": response.json()["session_id"],
            "method": "POST",
            "path": "/chat",
            "status": 200,
            "duration_ms": IsPositiveFloat,
            "body_bytes": AnyThing,
            "headers": {
                "host": response.request.headers["Host"],
                "accept": "*/*",
                "user-agent": "reader",
                "content-length": str(len(response.request.content)),
                "content-type": "application/json",
            },
            "database_statements": 3,
            "database_ms": IsPositiveFloat,
        }
    ]
    assert "private" not in service.output
    assert "in-the-query" not in service.output


@on_one_database
@pytest.mark.parametrize("character", ["x", "\xff"])
async def test_no_record_is_longer_than_a_reader_of_logs_takes(service: Service, character: str) -> None:
    url = service.client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    long = (character * 8_000).encode("latin-1")
    writer.write(
        b"GET /" + b"y" * 8_000 + b" HTTP/1.1\r\nHost: x\r\nUser-Agent: " + long + b"\r\nConnection: close\r\n\r\n"
    )
    await reader.read()
    writer.close()

    await eventually(lambda: service.logged("request"))
    [record] = service.log("request")
    assert record["headers"]["user-agent"] == character * 100
    assert record["path"] == "/" + "y" * 99
    assert max(map(len, service.output.splitlines())) < 16_000


@on_one_database
async def test_the_size_of_a_body_is_recorded_as_a_number_however_it_was_sent(service: Service) -> None:
    body = b'{"message": "Hello"}'

    async def in_pieces() -> AsyncIterator[bytes]:
        yield body[:7]
        yield body[7:]

    for content in (body, in_pieces()):
        response = await service.client.post("/chat", content=content, headers={"Content-Type": "application/json"})
        assert response.status_code == 200
    await service.client.get("/health")

    assert [record["body_bytes"] for record in service.log("request")] == [len(body), len(body), IsOneOf(0, None)]


async def test_the_statements_of_a_turn_are_counted(service: Service, database_url: str) -> None:
    session_id = (await service.chat()).json()["session_id"]
    await service.chat(session_id=session_id)
    await service.client.post("/chat", json={})

    # PostgreSQL moves the session on in the statement that writes the question.
    next_turn = 4 if "sqlite" in database_url else 3
    assert [(r["database_statements"], r["database_ms"]) for r in service.log("request")] == [
        (3, IsPositiveFloat),
        (next_turn, IsPositiveFloat),
        (0, 0.0),
    ]


@on_one_database
async def test_whoever_reads_or_deletes_a_session_is_recorded_with_it(service: Service) -> None:
    session_id = (await service.chat()).json()["session_id"]

    await service.client.get(f"/chat/{session_id}/messages")
    await service.client.delete(f"/chat/{session_id}")
    await service.client.get(f"/chat/{session_id}/messages")

    assert [(r["status"], r["session_id"]) for r in service.log("request")] == [
        (status, session_id) for status in (200, 200, 204, 404)
    ]


@on_one_database
async def test_a_model_call_is_recorded_with_its_size_and_its_cost(service: Service) -> None:
    response = await service.chat()

    assert service.log("openai.call") == [
        {
            "time": TIME,
            "level": "INFO",
            "logger": "app.llm",
            "event": "openai.call",
            "request_id": response.headers["X-Request-ID"],
            "session_id": response.json()["session_id"],
            "model": "gpt-6-luna",
            "messages": 2,
            "duration_ms": IsPositiveFloat,
            "status": "ok",
            "finish_reason": "stop",
            "prompt_tokens": 11,
            "completion_tokens": 7,
            "upstream_request_id": REQUEST_ID,
        }
    ]


@on_one_database
async def test_a_failed_model_call_is_recorded_with_the_kind_of_its_failure(
    serve: Serve, model_server: FakeOpenAI
) -> None:
    service = await serve(OPENAI_TIMEOUT_SECONDS="5")
    seen = {"upstream_request_id": REQUEST_ID}
    told = {"provider_message": "no", **seen}
    charged = {**seen, "prompt_tokens": 11, "completion_tokens": 7}
    failures: list[tuple[Reply, dict[str, Any]]] = [
        (failure(401, "no", "invalid_api_key"), {"status": 401, "provider_code": "invalid_api_key", **told}),
        (failure(429), {"status": 429, **told}),
        (failure(503), {"status": 503, **told}),
        (refusal(), {"status": "refusal", "finish_reason": "stop", **charged}),
        (completion(" "), {"status": "empty", "finish_reason": "stop", **charged}),
        (
            completion("Robots", "content_filter"),
            {"status": "content_filter", "finish_reason": "content_filter", **charged},
        ),
        (
            completion(None, "tool_calls", tool_calls=[{}]),
            {"status": "tool_calls", "finish_reason": "tool_calls", **charged},
        ),
        (completion("Robots", "abort"), {"status": "aborted", "finish_reason": "abort", **charged}),
        (empty_choices(), {"status": "malformed", **charged}),
        (html_page(), {"status": "malformed", "provider_message": IsStr(regex="<!doctype html>.*"), **seen}),
        (raw_body(b"{", "application/json"), {"status": "malformed", "provider_message": "{", **seen}),
        (cut, {"status": "APIConnectionError"}),
        (stall, {"status": "timeout"}),
    ]
    model_server.enqueue(*[reply for reply, _ in failures])

    responses = [await service.chat() for _ in failures]

    assert [response.status_code for response in responses] == [500] * len(failures)
    assert service.log("openai.call") == [
        {
            "time": TIME,
            "level": "INFO",
            "logger": "app.llm",
            "event": "openai.call",
            "request_id": response.headers["X-Request-ID"],
            "session_id": IsUUID(4),
            "model": "gpt-6-luna",
            "messages": 2,
            "duration_ms": IsFloat(gt=0, lt=6_000),
            **fields,
        }
        for response, (_, fields) in zip(responses, failures, strict=True)
    ]


@on_one_database
async def test_requests_at_the_same_time_keep_their_records_apart(service: Service, model_server: FakeOpenAI) -> None:
    count = 20
    everyone_is_here = asyncio.Event()
    model_server.enqueue(
        *[held(everyone_is_here, failure(500) if n % 4 == 0 else completion("Yes")) for n in range(count)]
    )

    async def ask(number: int) -> httpx2.Response:
        return await service.client.post(
            "/chat", json={"message": f"Question {number}"}, headers={"X-Request-ID": f"r{number}"}
        )

    asking = [asyncio.create_task(ask(number)) for number in range(count)]
    await model_server.wait_for_requests(count)
    everyone_is_here.set()
    responses = await asyncio.gather(*asking)

    sessions = {message.content: str(message.session_id) for message in await service.tables.messages()}
    expected = {(f"r{number}", sessions[f"Question {number}"]) for number in range(count)}
    assert len(expected) == count
    for event in ("openai.call", "request"):
        records = [(record["request_id"], record["session_id"]) for record in service.log(event)]
        assert sorted(records) == sorted(expected)
    failed = {response.headers["X-Request-ID"] for response in responses if response.status_code == 500}
    assert len(failed) == count / 4
    assert {record["request_id"] for record in service.log("openai.error")} == failed
    # Session, question, and the reply or the end of the claim.
    assert {r["request_id"]: r["database_statements"] for r in service.log("request")} == {
        f"r{number}": 3 for number in range(count)
    }
