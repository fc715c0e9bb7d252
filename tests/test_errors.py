"""Every error that a client can see: status, body and headers, what was stored, and what the log says of it."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx2
import pytest
from dirty_equals import IsPartialDict, IsStr
from sqlalchemy import text

from app.config import Settings
from app.models import MessageRole
from app.retrieval import retrieve_nothing
from tests.conftest import ORIGIN, PlugIn, Serve, Service, Tables, eventually
from tests.fake_openai import (
    FakeOpenAI,
    Reply,
    completion,
    cut,
    empty_choices,
    failure,
    held,
    html_page,
    json_body,
    raw_body,
    refusal,
    stall,
)
from tests.marks import on_one_database, on_postgresql
from tests.patience import PATIENCE_SECONDS
from tests.postgres import PostgresServer, free_port

MARK = "Zanzibar"
"""Stands in the invalid requests, so that an error that quotes one is noticed."""

MESSAGES = {
    "validation_error": "The request is not valid.",
    "not_found": "There is nothing at this address.",
    "method_not_allowed": "This address does not support this method.",
    "payload_too_large": "The request is too large.",
    "openai_error": "The assistant could not answer. Please try again.",
    "openai_refused": "The assistant will not answer this question. Asking it again does not help; please ask in another "
    "way.",
    "openai_timeout": "The assistant took too long to answer. Please try again.",
    "openai_rate_limited": "The assistant is busy. Please try again in a moment.",
    "database_error": "The conversation could not be read or saved. Please try again.",
    "internal_error": "Something went wrong on our side.",
    "not_ready": "The database does not answer, or has not been migrated.",
}


RETRYABLE = {
    *("openai_error", "openai_timeout", "openai_rate_limited"),
    *("database_error", "internal_error", "not_ready"),
}


def error_body(response: httpx2.Response, code: str, details: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
    """Return the whole body that a response with this code has."""
    error = {
        "code": code,
        "message": MESSAGES[code],
        "request_id": response.headers["X-Request-ID"],
        "retryable": code in RETRYABLE,
    }
    return {"error": {**error, "details": list(details)} if details else error}


def error_record(service: Service, event: str, response: httpx2.Response) -> dict[str, Any]:
    """Return the request's one record of the event, having seen that it holds a stack trace."""
    [record] = [record for record in service.log(event) if record["request_id"] == response.headers["X-Request-ID"]]
    assert record == IsPartialDict(
        level="ERROR",
        error=IsStr(min_length=1),
        traceback=IsStr(regex=r'(?s).*File ".*/app/\w+\.py", line \d+.*'),
    )
    return record


async def stored(tables: Tables) -> list[tuple[MessageRole, str]]:
    return [(message.role, message.content) for message in await tables.messages()]


async def run(tables: Tables, statement: str) -> None:
    async with tables.engine.begin() as connection:
        await connection.execute(text(statement))


@asynccontextmanager
async def without_messages_table(tables: Tables) -> AsyncIterator[None]:
    """Break the database in a way that both kinds have, and that leaves what is in it to be seen afterwards."""
    await run(tables, "ALTER TABLE messages RENAME TO messages_away")
    try:
        yield
    finally:
        await run(tables, "ALTER TABLE messages_away RENAME TO messages")


NOT_JSON = {"field": "body", "reason": "must be JSON"}
NO_OBJECT = {"field": "body", "reason": "must be a JSON object, sent with Content-Type: application/json"}
NUL = "must not contain NUL characters"
SURROGATE = "must not contain unpaired surrogates"
NO_STRING = "Input should be a valid string"


INVALID: dict[str, tuple[bytes, dict[str, str]]] = {
    "no body": (b"", {"field": "body", "reason": "is missing"}),
    "not JSON": (b"Zanzibar", NOT_JSON),
    "truncated": (b'{"message": "Zanzibar', NOT_JSON),
    "invalid UTF-8": (b'{"message": "\xffZanzibar"}', NOT_JSON),
    "deeply nested": (b'{"message": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", NOT_JSON),
    "integer with too many digits": (b'{"message": ' + b"9" * 5_000 + b"}", NOT_JSON),
    "list": (b'["Zanzibar"]', NO_OBJECT),
    "string": (b'"Zanzibar"', NO_OBJECT),
    "number": (b"2718281828", NO_OBJECT),
    "null": (b"null", NO_OBJECT),
    "no message": (b'{"text": "Zanzibar"}', {"field": "message", "reason": "is missing"}),
    "empty message": (b'{"message": ""}', {"field": "message", "reason": "must not be blank"}),
    "blank": (b'{"message": " \\n\\t\\u00a0"}', {"field": "message", "reason": "must not be blank"}),
    "message null": (b'{"message": null}', {"field": "message", "reason": NO_STRING}),
    "message a number": (b'{"message": 2718281828}', {"field": "message", "reason": NO_STRING}),
    "message an object": (b'{"message": {"Zanzibar": 1}}', {"field": "message", "reason": NO_STRING}),
    "NUL in message": (b'{"message": "Zanzibar\\u0000"}', {"field": "message", "reason": NUL}),
    "lone surrogate": (b'{"message": "Zanzibar\\ud800"}', {"field": "message", "reason": SURROGATE}),
    "selected_text a list": (
        b'{"message": "Hi", "selected_text": ["Zanzibar"]}',
        {"field": "selected_text", "reason": NO_STRING},
    ),
    "NUL in selected_text": (
        b'{"message": "Hi", "selected_text": "Zanzibar\\u0000"}',
        {"field": "selected_text", "reason": NUL},
    ),
    "lone surrogate in selected_text": (
        b'{"message": "Hi", "selected_text": "\\udc00Zanzibar"}',
        {"field": "selected_text", "reason": SURROGATE},
    ),
    "session_id an object": (
        b'{"message": "Hi", "session_id": {"Zanzibar": 1}}',
        {"field": "session_id", "reason": NO_STRING},
    ),
}


@on_one_database
async def test_an_invalid_body_is_refused_with_field_and_reason_and_without_quoting_it(
    service: Service, model_server: FakeOpenAI, subtests: pytest.Subtests
) -> None:
    for invalid, (body, detail) in INVALID.items():
        with subtests.test(invalid):
            response = await service.client.post("/chat", content=body, headers={"Content-Type": "application/json"})

            assert response.status_code == 400
            assert response.json() == error_body(response, "validation_error", [detail])
            assert MARK not in response.text
            assert "2718281828" not in response.text
    assert await service.tables.sessions() == []
    assert model_server.requests == []


@on_one_database
async def test_a_body_that_is_not_sent_as_json_is_refused(service: Service) -> None:
    for content_type in (None, "text/plain", "application/x-www-form-urlencoded", "nonsense"):
        headers = {"Content-Type": content_type} if content_type else {}
        response = await service.client.post("/chat", content=b'{"message": "Hello"}', headers=headers)

        assert response.status_code == 400, content_type
        assert response.json() == error_body(response, "validation_error", [NO_OBJECT])


@on_one_database
async def test_every_fault_of_a_request_is_listed(service: Service) -> None:
    response = await service.client.post("/chat", json={"message": " ", "session_id": 7, "selected_text": 7})

    assert response.status_code == 400
    assert response.json() == error_body(
        response,
        "validation_error",
        [
            {"field": "message", "reason": "must not be blank"},
            {"field": "session_id", "reason": NO_STRING},
            {"field": "selected_text", "reason": NO_STRING},
        ],
    )


@on_one_database
async def test_texts_above_their_limits_are_refused_and_not_cut(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(MAX_MESSAGE_CHARS="10", MAX_SELECTED_TEXT_CHARS="20")

    response = await service.chat("M" * 11, selected_text="S" * 21)

    assert response.status_code == 400
    assert response.json() == error_body(
        response,
        "validation_error",
        [
            {"field": "message", "reason": "must not be longer than 10 characters"},
            {"field": "selected_text", "reason": "must not be longer than 20 characters"},
        ],
    )
    assert model_server.requests == []


@on_one_database
async def test_an_unknown_address_is_answered_in_json(service: Service) -> None:
    response = await service.client.get(f"/{MARK}")

    assert response.status_code == 404
    assert response.json() == error_body(response, "not_found")


@on_one_database
@pytest.mark.parametrize("path", ["/chat/", "/chat%0a", "/health/", "/health%0A", "/chat/stream/"])
async def test_an_address_that_is_almost_right_is_unknown_and_redirects_nowhere(service: Service, path: str) -> None:
    for method in ("GET", "POST"):
        response = await service.client.request(
            method, path, json={"message": "Why?"}, headers={"Host": "evil.example", "Origin": ORIGIN}
        )

        assert response.status_code == 404
        assert response.json() == error_body(response, "not_found")
        assert "location" not in response.headers
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN


async def test_a_wrong_method_is_answered_in_json_and_told_the_right_one(service: Service) -> None:
    for method, path, allowed in (
        ("GET", "/chat/stream", "POST"),
        ("PUT", "/chat", "POST, GET, DELETE"),
        ("POST", "/health", "GET"),
        ("POST", "/chat/export", "GET"),
        ("PUT", "/chat/an-id", "DELETE"),
    ):
        response = await service.client.request(method, path)

        assert response.status_code == 405
        assert response.headers["Allow"] == allowed
        assert response.json() == error_body(response, "method_not_allowed")


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1_000):
        yield body[start : start + 1_000]


@on_one_database
@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
async def test_a_body_larger_than_any_valid_request_is_refused(
    serve: Serve, model_server: FakeOpenAI, *, chunked: bool
) -> None:
    service = await serve(MAX_MESSAGE_CHARS="10", MAX_SELECTED_TEXT_CHARS="10")
    body = json.dumps({"message": "Hello", "padding": "x" * 40_000}).encode()

    response = await service.client.post(
        "/chat",
        content=in_pieces(body) if chunked else body,
        headers={"Content-Type": "application/json", "Origin": ORIGIN},
    )

    assert response.request.headers.get("Transfer-Encoding") == ("chunked" if chunked else None)
    assert response.status_code == 413
    assert response.json() == error_body(response, "payload_too_large")
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert model_server.requests == []


@on_one_database
@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
async def test_a_body_as_large_as_the_limit_is_read(serve: Serve, *, chunked: bool) -> None:
    service = await serve(MAX_MESSAGE_CHARS="10", MAX_SELECTED_TEXT_CHARS="10")
    limit = Settings.load().max_body_bytes

    statuses = []
    for size in (limit, limit + 1):
        body = b'{"message": "Hello"}'.ljust(size)
        content = in_pieces(body) if chunked else body
        response = await service.client.post("/chat", content=content, headers={"Content-Type": "application/json"})
        statuses.append(response.status_code)

    assert statuses == [200, 413]


@on_one_database
async def test_a_body_announced_as_too_large_is_refused_before_it_is_sent(service: Service) -> None:
    url = urlsplit(str(service.client.base_url))
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    head = "POST /chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 999999999\r\n\r\n"

    writer.write(head.encode())
    async with asyncio.timeout(PATIENCE_SECONDS):
        status_line = await reader.readline()
    writer.close()
    await writer.wait_closed()

    assert status_line.startswith(b"HTTP/1.1 413 ")


@on_one_database
async def test_the_longest_valid_request_is_not_too_large_however_it_is_escaped(serve: Serve) -> None:
    service = await serve(MAX_MESSAGE_CHARS="2000", MAX_SELECTED_TEXT_CHARS="2000")
    robots = "\N{ROBOT FACE}" * 2_000
    body = json.dumps({"message": robots, "selected_text": robots}, ensure_ascii=True).encode()
    assert len(body) > 12 * 4_000

    response = await service.client.post("/chat", content=body, headers={"Content-Type": "application/json"})

    assert response.status_code == 200


def odd_completion(**fields: Any) -> Reply:
    return json_body({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", **fields})


UNUSABLE: dict[str, Reply] = {
    "a web page": html_page(),
    "an empty object": json_body({}),
    "a list": json_body([]),
    "a string": json_body("text"),
    "an error with status 200": json_body({"error": {"message": "no"}}),
    "a choice without a message": json_body({"choices": [{}]}),
    "choices that are an object": odd_completion(choices={"0": {}}),
    "content that is a list": completion(["Robots"]),  # type: ignore[arg-type]  # The point.
    "content that is a number": completion(42),  # type: ignore[arg-type]  # The point.
    "invalid JSON": raw_body(b'{"choices": [', "application/json"),
    "deeply nested JSON": raw_body(b"[" * 100_000, "application/json"),
    "no choices": empty_choices(),
    "a blank answer": completion(" \n"),
    "an answer cut by the content filter": completion("Robots are", "content_filter"),
    "a cut connection": cut,
}
"""What an upstream may answer that is neither a failure with a status nor an answer."""


@on_one_database
async def test_an_answer_that_cannot_be_used_is_an_openai_error_and_the_question_is_kept(
    service: Service, model_server: FakeOpenAI, subtests: pytest.Subtests
) -> None:
    for unusable, reply in UNUSABLE.items():
        with subtests.test(unusable):
            model_server.enqueue(reply)

            response = await service.chat(unusable)

            assert response.status_code == 500
            assert response.json() == error_body(response, "openai_error")
            assert "Retry-After" not in response.headers
            assert error_record(service, "openai.error", response)["error"] == "app.errors.ModelError"
    assert await stored(service.tables) == [(MessageRole.user, unusable) for unusable in UNUSABLE]


@on_one_database
async def test_a_question_that_the_model_refuses_is_told_so_and_kept(
    service: Service, model_server: FakeOpenAI
) -> None:
    model_server.enqueue(refusal())

    response = await service.chat("What is a robot?")

    assert response.status_code == 500
    assert response.json() == error_body(response, "openai_refused")
    assert await stored(service.tables) == [(MessageRole.user, "What is a robot?")]
    assert error_record(service, "openai.error", response)["error"] == "app.errors.ModelRefusedError"


OUT_OF_ORDER = "The assistant is out of order. Asking again does not help until its operator has repaired it."


@on_one_database
@pytest.mark.parametrize(
    ("status", "cause", "message"),
    [
        (400, "BadRequestError", MESSAGES["openai_error"]),
        (401, "AuthenticationError", OUT_OF_ORDER),
        (402, "APIStatusError", OUT_OF_ORDER),
        (403, "PermissionDeniedError", OUT_OF_ORDER),
        (404, "NotFoundError", OUT_OF_ORDER),
        (500, "InternalServerError", MESSAGES["openai_error"]),
    ],
)
async def test_a_failure_status_of_the_model_is_an_openai_error(
    service: Service, model_server: FakeOpenAI, status: int, cause: str, message: str
) -> None:
    model_server.enqueue(failure(status, f"internal: {MARK}"))

    response = await service.chat("What is a robot?")

    assert response.status_code == 500
    body = error_body(response, "openai_error")
    assert response.json() == {"error": {**body["error"], "message": message, "retryable": message != OUT_OF_ORDER}}
    assert "Retry-After" not in response.headers
    assert await stored(service.tables) == [(MessageRole.user, "What is a robot?")]
    traceback = error_record(service, "openai.error", response)["traceback"]
    assert f"openai.{cause}: " in traceback
    assert MARK in traceback


@on_one_database
@pytest.mark.parametrize(("status", "code"), [(429, "openai_rate_limited"), (503, "openai_error")])
@pytest.mark.parametrize("retry_after", [None, "17"], ids=["without Retry-After", "with Retry-After"])
async def test_a_busy_model_is_told_with_the_retry_after_that_it_gave(
    service: Service, model_server: FakeOpenAI, status: int, code: str, retry_after: str | None
) -> None:
    model_server.enqueue(failure(status, **({"retry-after": retry_after} if retry_after else {})))

    response = await service.chat("What is a robot?")

    assert response.status_code == 500
    assert response.json() == error_body(response, code)
    assert response.headers.get("Retry-After") == retry_after
    assert await stored(service.tables) == [(MessageRole.user, "What is a robot?")]
    error_record(service, "openai.error", response)


async def test_a_model_that_does_not_answer_is_given_up_at_the_deadline(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(OPENAI_TIMEOUT_SECONDS="0.2")
    model_server.enqueue(stall)

    response = await service.chat("What is a robot?")

    assert response.status_code == 500
    assert response.json() == error_body(response, "openai_timeout")
    assert await stored(service.tables) == [(MessageRole.user, "What is a robot?")]
    assert error_record(service, "openai.error", response)["error"] == "app.errors.ModelTimeoutError"


async def test_a_model_that_cannot_be_reached_is_an_openai_error(serve: Serve) -> None:
    service = await serve(OPENAI_BASE_URL=f"http://127.0.0.1:{free_port()}/v1")

    response = await service.chat("What is a robot?")

    assert response.status_code == 500
    assert response.json() == error_body(response, "openai_error")
    assert await stored(service.tables) == [(MessageRole.user, "What is a robot?")]
    assert "openai.APIConnectionError: " in error_record(service, "openai.error", response)["traceback"]


async def test_a_session_goes_on_after_a_failed_turn(service: Service, model_server: FakeOpenAI) -> None:
    session_id = (await service.chat("First")).json()["session_id"]
    model_server.enqueue(failure(500))
    failed = await service.chat("Second", session_id=session_id)

    response = await service.chat("Third", session_id=session_id)

    assert failed.status_code == 500
    assert response.json() == {"response": "Answer 3 to: Third", "session_id": session_id, "timestamp": IsStr}
    assert await stored(service.tables) == [
        (MessageRole.user, "First"),
        (MessageRole.assistant, "Answer 1 to: First"),
        (MessageRole.user, "Second"),
        (MessageRole.user, "Third"),
        (MessageRole.assistant, "Answer 3 to: Third"),
    ]


@on_one_database
@pytest.mark.parametrize("usage", ["much", [11, 7], {"prompt_tokens": None}], ids=repr)
async def test_an_answer_is_given_whatever_its_count_of_tokens_looks_like(
    service: Service, model_server: FakeOpenAI, usage: Any
) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "A machine."}, "finish_reason": "stop"}
    model_server.enqueue(odd_completion(choices=[choice], usage=usage))

    response = await service.chat()

    assert response.status_code == 200
    assert response.json() == IsPartialDict(response="A machine.")


async def test_a_failure_in_passing_is_retried_and_one_reply_is_stored(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(OPENAI_MAX_RETRIES="2")
    model_server.enqueue(failure(500, **{"retry-after-ms": "1"}))

    response = await service.chat("What is a robot?")

    assert response.status_code == 200
    assert response.json() == IsPartialDict(response="Answer 2 to: What is a robot?")
    assert len(model_server.requests) == 2
    assert await stored(service.tables) == [
        (MessageRole.user, "What is a robot?"),
        (MessageRole.assistant, "Answer 2 to: What is a robot?"),
    ]


@on_one_database
@pytest.mark.parametrize(
    ("asked", "told"), [("7", "7"), ("7.2", "8"), ("Wed, 21 Oct 2065 07:28:00 GMT", IsStr(regex=r"\d{9,10}"))]
)
async def test_a_long_retry_after_is_told_in_seconds_and_not_waited_for(
    serve: Serve, model_server: FakeOpenAI, asked: str, told: str
) -> None:
    service = await serve(OPENAI_MAX_RETRIES="2")
    model_server.enqueue(failure(429, **{"retry-after": asked}))

    response = await service.chat()

    assert response.json() == error_body(response, "openai_rate_limited")
    assert response.headers["Retry-After"] == told
    assert len(model_server.requests) == 1


@on_one_database
@pytest.mark.parametrize("asked", ["-1", "0", "0.0", "soon", "nan", "1e400", "Wed, 21 Oct 2015 07:28:00 GMT"])
async def test_a_retry_after_that_cannot_be_meant_is_not_told(
    service: Service, model_server: FakeOpenAI, asked: str
) -> None:
    model_server.enqueue(failure(503, **{"retry-after": asked}))

    assert "Retry-After" not in (await service.chat()).headers


@on_one_database
async def test_the_deadline_covers_the_waits_between_retries(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(OPENAI_MAX_RETRIES="5", OPENAI_TIMEOUT_SECONDS="1.5")
    model_server.enqueue(failure(500, **{"retry-after": "2"}))

    response = await service.chat()

    assert response.json() == error_body(response, "openai_timeout")
    assert len(model_server.requests) == 1


@on_one_database
async def test_the_deadline_covers_all_tries_together(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(OPENAI_MAX_RETRIES="10", OPENAI_TIMEOUT_SECONDS="4")
    model_server.enqueue(*[failure(500, **{"retry-after-ms": "1"})] * 3, stall)

    response = await service.chat()

    assert response.json() == error_body(response, "openai_timeout")
    assert len(model_server.requests) == 4


async def test_characters_that_cannot_be_stored_are_replaced_in_the_answer(
    service: Service, model_server: FakeOpenAI
) -> None:
    model_server.enqueue(completion("Robots\x00 can \ud83e walk \N{ROBOT FACE}"))

    response = await service.chat("Can robots walk?")

    answer = "Robots\N{REPLACEMENT CHARACTER} can \N{REPLACEMENT CHARACTER} walk \N{ROBOT FACE}"
    assert response.status_code == 200
    assert response.json() == IsPartialDict(response=answer)
    assert await stored(service.tables) == [(MessageRole.user, "Can robots walk?"), (MessageRole.assistant, answer)]


@on_postgresql
@pytest.mark.parametrize("session_id", [None, str(uuid.uuid4())], ids=["new session", "session to look up"])
async def test_a_database_that_cannot_be_reached_is_a_database_error(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, session_id: str | None
) -> None:
    monkeypatch.setattr("app.pool.WAKE_SECONDS", 0.0)
    service = await serve(DATABASE_URL=f"postgresql://postgres@127.0.0.1:{free_port()}/postgres")

    response = await service.chat(session_id=session_id)

    assert response.status_code == 500
    assert response.json() == error_body(response, "database_error")
    assert "ConnectionRefusedError" in error_record(service, "database.error", response)["traceback"]
    await eventually(lambda: service.logged("database.unchecked"))


@on_postgresql
@pytest.mark.parametrize("address", ["postgres@{host}/absent", "absent@{host}/postgres"], ids=["database", "user"])
async def test_a_database_that_turns_the_service_away_is_a_database_error(
    serve: Serve, postgres: PostgresServer, address: str
) -> None:
    service = await serve(DATABASE_URL="postgresql://" + address.format(host=f"127.0.0.1:{postgres.port}"))

    response = await service.chat()

    assert response.status_code == 500
    assert response.json() == error_body(response, "database_error")
    assert "absent" in error_record(service, "database.error", response)["traceback"]


async def test_a_known_session_that_cannot_be_read_is_a_database_error(
    service: Service, model_server: FakeOpenAI
) -> None:
    session_id = (await service.chat("First")).json()["session_id"]

    async with without_messages_table(service.tables):
        response = await service.chat("Second", session_id=session_id)

    assert response.status_code == 500
    assert response.json() == error_body(response, "database_error")
    error_record(service, "database.error", response)
    assert await stored(service.tables) == [
        (MessageRole.user, "First"),
        (MessageRole.assistant, "Answer 1 to: First"),
    ]
    assert len(model_server.requests) == 1


async def test_a_question_that_cannot_be_stored_is_answered_without_waiting_for_the_model(
    serve: Serve, model_server: FakeOpenAI, plug_in: PlugIn
) -> None:
    plug_in(retrieve_nothing)  # So the model is asked before the database refuses.
    service = await serve(OPENAI_TIMEOUT_SECONDS="600")
    model_server.enqueue(stall)

    async with without_messages_table(service.tables), asyncio.timeout(PATIENCE_SECONDS):
        response = await service.chat()

    assert response.status_code == 500
    assert response.json() == error_body(response, "database_error")
    record = error_record(service, "database.error", response)
    # With the statement's parameters the message would quote the reader, and would have to be withheld.
    assert "messages" in record["traceback"]
    assert "withheld" not in record["traceback"]
    assert service.log("openai.call") == [IsPartialDict(status="cancelled")]
    assert await service.tables.sessions() == []
    assert await service.tables.messages() == []


async def test_a_reply_that_cannot_be_stored_is_not_given_and_the_question_remains(
    service: Service, model_server: FakeOpenAI
) -> None:
    answer = asyncio.Event()
    model_server.enqueue(held(answer, completion(f"The answer is {MARK}.")))

    asking = asyncio.create_task(service.chat("What is a robot?"))
    await model_server.wait_for_requests(1)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await service.tables.messages():
            pass
    async with without_messages_table(service.tables):
        answer.set()
        response = await asking

    assert response.status_code == 500
    assert response.json() == error_body(response, "database_error")
    assert MARK not in response.text
    error_record(service, "database.error", response)
    assert await stored(service.tables) == [(MessageRole.user, "What is a robot?")]


async def test_a_model_that_fails_while_the_database_is_away_is_an_openai_error_all_the_same(
    service: Service, model_server: FakeOpenAI
) -> None:
    fail = asyncio.Event()
    model_server.enqueue(held(fail, failure(500)))

    asking = asyncio.create_task(service.chat("What is a robot?"))
    await model_server.wait_for_requests(1)
    await eventually(lambda: service.has_recorded("What is a robot?"))
    async with without_messages_table(service.tables):
        fail.set()
        response = await asking

    assert response.json() == error_body(response, "openai_error")
    error_record(service, "openai.error", response)


@pytest.fixture
async def database_without_tables(postgres: PostgresServer) -> str:
    name = f"without_tables_{uuid.uuid4().hex}"
    connection = await asyncpg.connect(postgres.url())
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return postgres.url(name)


@on_postgresql
async def test_a_postgresql_without_tables_is_noticed_at_the_start_with_the_command_to_run(
    serve: Serve, database_without_tables: str
) -> None:
    service = await serve(DATABASE_URL=database_without_tables)

    def checked() -> list[dict[str, Any]]:
        return [record for record in service.log() if record["event"].startswith("database.")]

    async with asyncio.timeout(PATIENCE_SECONDS):
        while not checked():  # noqa: ASYNC110  # A log has no event for it.
            await asyncio.sleep(0.005)
    assert checked() == [IsPartialDict(event="database.not_migrated", level="ERROR", run="alembic upgrade head")]


@on_postgresql
async def test_a_postgresql_without_tables_takes_no_turns(serve: Serve, database_without_tables: str) -> None:
    service = await serve(DATABASE_URL=database_without_tables)

    turn = await service.chat()
    ready = await service.client.get("/health/ready")

    assert turn.status_code == 500
    assert turn.json() == error_body(turn, "database_error")
    assert ready.status_code == 503
    assert ready.json() == error_body(ready, "not_ready")


async def test_an_unforeseen_exception_is_an_internal_error_that_a_browser_can_read(
    service: Service, model_server: FakeOpenAI, plug_in: PlugIn
) -> None:
    plug_in(RuntimeError(f"the index of {MARK} is gone"))

    response = await service.client.post("/chat", json={"message": "Hello"}, headers={"Origin": ORIGIN})

    assert response.status_code == 500
    assert response.json() == error_body(response, "internal_error")
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    record = error_record(service, "internal.error", response)
    assert record == IsPartialDict(error="RuntimeError", error_message=f"the index of {MARK} is gone")
    assert record["traceback"].endswith(f"RuntimeError: the index of {MARK} is gone\n")
    assert model_server.requests == []
