"""The log: what each record says, whom it belongs to, and that neither a secret nor a reader's word gets into it."""

import asyncio
import io
import json
import logging
import os
import pty
import re
import select
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, override

import asyncpg
import httpx2
import pytest
from dirty_equals import AnyThing, IsFloat, IsOneOf, IsPartialDict, IsPositiveFloat, IsStr, IsUUID

from app import logs
from app.config import Settings
from app.dependencies import get_retriever
from app.logs import JsonFormatter, RequestLogMiddleware, TextFormatter, current_request
from app.main import app
from app.retrieval import Passage, Retriever
from tests.conftest import API_KEY, ROOT, Serve, Service, migrate
from tests.fake_openai import (
    REQUEST_ID,
    Exchange,
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
from tests.postgres import PostgresServer, free_port

# What the log says does not depend on the database, but for the one failure that shows the difference.
on_one_database = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

TIME = IsStr(regex=r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00")


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
                "accept-encoding": response.request.headers["Accept-Encoding"],
                "connection": "keep-alive",
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


async def test_the_statements_of_a_turn_are_counted(service: Service) -> None:
    session_id = (await service.chat()).json()["session_id"]
    await service.chat(session_id=session_id)
    await service.client.post("/chat", json={})

    assert [(r["database_statements"], r["database_ms"]) for r in service.log("request")] == [
        (3, IsPositiveFloat),
        (4, IsPositiveFloat),
        (0, 0.0),
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
            "model": "gpt-5.4-mini",
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
            "model": "gpt-5.4-mini",
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
    assert {r["request_id"]: r["database_statements"] for r in service.log("request")} == {
        f"r{number}": 2 if f"r{number}" in failed else 3 for number in range(count)
    }


@on_one_database
@pytest.mark.parametrize("environment", [{}, {"FASTAPI_ENV": "development"}], ids=["production", "no terminal"])
async def test_every_line_is_one_json_object(
    serve: Serve, model_server: FakeOpenAI, environment: dict[str, str]
) -> None:
    service = await serve(**environment)
    model_server.enqueue(failure(500, "first line\nsecond line"))

    await service.chat("One\nTwo")
    await service.client.get("/a%0Ab", headers={"User-Agent": 'a "quoted" name'})

    lines = [json.loads(line) for line in service.output.splitlines()]
    assert lines == [
        {**line, "time": TIME, "level": IsStr(regex="INFO|WARNING|ERROR"), "logger": IsStr, "event": IsStr}
        for line in lines
    ]
    assert [line["event"] for line in lines][-4:] == ["openai.call", "openai.error", "request", "request"]
    assert lines[-1] == IsPartialDict(path="/a\nb", status=404)


@on_one_database
async def test_the_log_level_silences_what_is_less_severe(serve: Serve, model_server: FakeOpenAI) -> None:
    service = await serve(LOG_LEVEL="error")
    model_server.enqueue(failure(500))

    await service.chat()
    await service.chat()

    assert [(record["level"], record["event"]) for record in service.log()] == [("ERROR", "openai.error")]


class FakeTerminal(io.StringIO):
    @override
    def isatty(self) -> bool:
        return True


def test_a_developer_at_a_terminal_reads_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAPI_ENV", "development")
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)
    monkeypatch.setenv("COLUMNS", "200")

    with redirect_stdout(FakeTerminal()) as terminal:
        logs.configure(Settings.load())
        logging.getLogger("app.x").info("something.happened", extra={"fields": {"count": 3, "key": API_KEY}})

    assert re.search(r"INFO +something\.happened count=3 key=\*\*\*", without_colours(terminal.getvalue()))


def test_production_at_a_terminal_writes_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///chat.db")
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)

    with redirect_stdout(FakeTerminal()) as terminal:
        logs.configure(Settings.load())
        logging.getLogger("app.x").info("something.happened", extra={"fields": {"count": 3}})

    assert json.loads(terminal.getvalue()) == {
        "time": TIME,
        "level": "INFO",
        "logger": "app.x",
        "event": "something.happened",
        "count": 3,
    }


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def read_until(terminal: int, end: str) -> str:
    """Read what appears on the terminal, up to and with the end."""
    output = ""
    while end not in without_colours(output):
        ready, _, _ = select.select([terminal], [], [], 20)
        assert ready, output
        output += os.read(terminal, 65_536).decode(errors="replace")
    return output


def test_the_development_service_writes_for_people_on_its_terminal(tmp_path: Path) -> None:
    port = free_port()
    terminal, inner_end = pty.openpty()
    command = [sys.executable, "-m", "uvicorn", "app.main:app", "--app-dir", str(ROOT), "--port", str(port)]
    environment = {"FASTAPI_ENV": "development", "TERM": "xterm-256color", "COLUMNS": "400", "PATH": os.environ["PATH"]}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=inner_end, stderr=inner_end, cwd=tmp_path, env=environment
    ) as process:
        try:
            output = read_until(terminal, "Uvicorn running on")
            response = httpx2.post(f"http://127.0.0.1:{port}/chat", json={"message": "Zanzibar?"})
            output += read_until(terminal, "path=/chat status=200")
        finally:
            process.terminate()
            process.wait(20)
            os.close(inner_end)
            os.close(terminal)

    assert response.status_code == 200
    assert "\x1b[" in output
    plain = without_colours(output)
    assert re.search(r"WARNING +openai\.offline reason=", plain)
    assert re.search(r"WARNING +database\.embedded reason=", plain)
    assert re.search(rf"INFO +request request_id={response.headers['X-Request-ID']} session_id=\S+ method=POST", plain)
    assert '{"time"' not in plain
    assert "Zanzibar" not in plain


def failed(error: BaseException, **fields: Any) -> logging.LogRecord:
    """Return a record of the exception, which has a traceback."""
    try:
        raise error  # noqa: TRY301  # That is how it gets a traceback.
    except BaseException as caught:  # noqa: BLE001  # Groups and exits are logged too.
        exc_info = (type(caught), caught, caught.__traceback__)
    return logging.getLogger("app.x").makeRecord(
        "app.x", logging.ERROR, __file__, 1, "it.failed", (), exc_info, extra={"fields": fields}
    )


def chained(error: Exception, cause: Exception) -> Exception:
    """Return the exception, raised from the cause."""
    try:
        try:
            raise cause
        except type(cause) as caught:
            raise error from caught
    except type(error) as caught:
        return caught


async def format_in_request(formatter: logging.Formatter, record: logging.LogRecord, *confidential: str) -> str:
    """Format the record as it would be while a request with these texts is served."""
    lines = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        current_request().confidential += confidential
        lines.append(formatter.format(record))

    async def nothing(*_: Any) -> Any: ...

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"x-request-id", b"r1")]}
    await RequestLogMiddleware(application)(scope, nothing, nothing)
    return lines[0]


def test_an_exception_is_recorded_with_its_type_its_message_and_its_traceback() -> None:
    record = json.loads(JsonFormatter().format(failed(ValueError("wrong"), attempt=2)))

    assert record == {
        "time": TIME,
        "level": "ERROR",
        "logger": "app.x",
        "event": "it.failed",
        "attempt": 2,
        "error": "ValueError",
        "error_message": "wrong",
        "traceback": IsStr(
            regex=r'(?s)  File ".*test_logs\.py", line \d+, in failed\n    raise error.*\nValueError: wrong\n'
        ),
    }


def test_the_causes_of_an_exception_come_before_it() -> None:
    traceback = json.loads(JsonFormatter().format(failed(chained(KeyError("effect"), OSError("cause")))))["traceback"]

    assert traceback.index("OSError: cause") < traceback.index("which led to") < traceback.index("KeyError: 'effect'")


def test_the_context_of_an_exception_is_its_cause_unless_it_was_suppressed() -> None:
    effect = KeyError("effect")
    effect.__context__ = OSError("context")
    with_context = JsonFormatter().format(failed(effect))
    effect.__suppress_context__ = True
    without_context = JsonFormatter().format(failed(effect))

    assert "OSError: context" in with_context
    assert "OSError" not in without_context


def test_every_exception_of_a_group_is_recorded() -> None:
    group = ExceptionGroup("both", [chained(ValueError("one"), OSError("cause")), TypeError("two")])

    traceback = json.loads(JsonFormatter().format(failed(group)))["traceback"]

    for line in (
        "ExceptionGroup: both (2 sub-exceptions)\n",
        "OSError: cause\n",
        "ValueError: one\n",
        "TypeError: two\n",
    ):
        assert line in traceback


def test_text_for_people_has_the_same_fields_and_the_traceback_below() -> None:
    text = TextFormatter().format(failed(chained(KeyError("effect"), OSError("cause")), attempt=2))

    first, *below = text.splitlines()
    assert first == "it.failed attempt=2 error=KeyError error_message='effect'"
    assert "OSError: cause" in below
    assert below[-1] == "KeyError: 'effect'"


@pytest.mark.parametrize("formatter", [JsonFormatter, TextFormatter])
@pytest.mark.parametrize(
    "error",
    [
        pytest.param(lambda text: ValueError(f"cannot take {text}"), id="quoted"),
        pytest.param(lambda text: ValueError(f"cannot take {text[8:24]}…"), id="quoted in part"),
        pytest.param(KeyError, id="as repr"),
        pytest.param(lambda text: ValueError(json.dumps({"message": text})), id="as JSON"),
        pytest.param(lambda text: ValueError(json.dumps(json.dumps({"message": text}))), id="as JSON in JSON"),
        pytest.param(lambda text: chained(RuntimeError("failed"), ValueError(text)), id="in the cause"),
        pytest.param(lambda text: ExceptionGroup("failed", [ValueError(text)]), id="in a group"),
    ],
)
async def test_a_message_that_quotes_the_reader_is_withheld(
    formatter: type[logging.Formatter], error: Callable[[str], Exception]
) -> None:
    question = 'روبوٹ "Zanzibar"\nکیوں لنگڑاتا ہے؟\n"Z"'

    line = await format_in_request(formatter(), failed(error(question)), "", "Hi", question)

    assert "Zanzibar" not in line
    assert "لنگڑاتا" not in unescaped(line)
    assert "Error: (withheld: the message quotes the reader)" in line


async def test_a_message_that_does_not_quote_the_reader_is_kept() -> None:
    question = "Why is there no such table?"

    line = await format_in_request(JsonFormatter(), failed(ValueError("no such column")), question, "", "a")

    assert json.loads(line) == IsPartialDict(request_id="r1", error_message="no such column")


@pytest.mark.parametrize("formatter", [JsonFormatter, TextFormatter])
def test_secrets_are_redacted_wherever_they_stand(formatter: Callable[[Sequence[str]], logging.Formatter]) -> None:
    secrets = [API_KEY, 'pa"ss\\wörd']
    error = chained(ValueError(f"bad key {API_KEY}"), OSError(f"cannot reach postgresql://user:{secrets[1]}@host"))

    line = formatter(secrets).format(failed(error, key=API_KEY, nested={"key": API_KEY}))

    assert API_KEY not in line
    assert "ss\\" not in line
    assert "wörd" not in unescaped(line)
    assert "bad key ***" in line
    assert "user:***@host" in line


def test_a_secret_at_the_end_of_a_long_message_is_not_logged_in_part() -> None:
    line = JsonFormatter([API_KEY]).format(failed(ValueError("." * (2_000 - len(API_KEY) + 1) + API_KEY)))

    assert API_KEY[:-1] not in line


PASSWORD = "pa$$word-in-url"
TOKEN = "bearer-token-of-the-reader"
COOKIE = "cookie-of-the-reader"
QUESTION = 'Why does my "Zanzibar" limp?\nروبوٹ کیوں لنگڑاتا ہے؟'
EXCERPT = "A robot from Timbuktu walks:\nleft,\nright,\nleft.\nدو ٹانگوں والا روبوٹ پھسلتا ہے"
EARLIER_QUESTION = "What did they build in Samarkand, long ago?"
EARLIER_ANSWER = "They built automata in Vladivostok, so I am told."
NEW_ANSWER = "It limps because of the cold in Reykjavik, I think."
CONFIDENTIAL = {
    "API key": API_KEY,
    "database password": PASSWORD,
    "database password as in the URL": PASSWORD.replace("$", "%24"),
    "Authorization": TOKEN,
    "Cookie": COOKIE,
    "message": "Zanzibar",
    "message in Urdu": "لنگڑاتا",
    "selected text": "Timbuktu",
    "selected text in Urdu": "پھسلتا",
    "earlier question": "Samarkand",
    "earlier answer": "Vladivostok",
    "new answer": "Reykjavik",
}


def unescaped(text: str) -> str:
    """Return the text with what JSON spells as `\\uXXXX`, however often it was escaped, as it was."""
    return re.sub(r"\\+u([0-9a-f]{4})", lambda match: chr(int(match[1], 16)), text)


def leaks(text: str) -> list[str]:
    """Return what of the confidential is found in the text."""
    return [name for name, secret in CONFIDENTIAL.items() if secret in unescaped(text)]


def echo(status: int, quote: Callable[[Any], str] = json.dumps, content_type: str | None = None) -> Reply:
    """Answer with what was sent: the prompt, and the key."""

    async def reply(exchange: Exchange) -> None:
        text = f"You sent {quote(exchange.body['messages'])} with {exchange.headers['authorization']}"
        answer = raw_body(text.encode(), content_type, status) if content_type else failure(status, text, code=text)
        await answer(exchange)

    return reply


def quoting(template: str, content_type: str) -> Reply:
    """Answer with the template and the prompt, as a JSON string, in it."""

    async def reply(exchange: Exchange) -> None:
        prompt = json.dumps(plainly(exchange.body["messages"]))
        await raw_body(template.format(prompt).encode(), content_type)(exchange)

    return reply


def plainly(messages: list[dict[str, str]]) -> str:
    return "\n".join(message["content"] for message in messages)


def in_json_twice(messages: list[dict[str, str]]) -> str:
    return json.dumps(json.dumps(messages))


def retriever(error: Callable[[str], Exception]) -> Callable[[], Awaitable[Retriever]]:
    """Return a dependency that gives a retriever, which raises this exception for the question."""

    async def retrieve(question: str) -> Sequence[Passage]:
        raise error(question)

    async def dependency() -> Retriever:
        return retrieve

    return dependency


@dataclass
class Failure:
    """A way for a turn to fail."""

    code: str
    reply: Reply = field(default_factory=lambda: completion(NEW_ANSWER))
    environment: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    """What the request's body has instead."""
    constraint: str | None = None
    """What the messages table demands meanwhile."""
    logged: str | None = None
    """What the log has to show, so that the failure is known to have been the one that was meant."""


WITHHELD = "(withheld: the message quotes the reader)"
FAILURES = {
    "upstream quotes in an error": Failure("openai_error", echo(400, plainly), logged=WITHHELD),
    "upstream quotes in JSON": Failure("openai_error", echo(400), logged=WITHHELD),
    "upstream quotes in JSON twice": Failure("openai_error", echo(400, in_json_twice), logged=WITHHELD),
    "upstream quotes as repr": Failure("openai_error", echo(403, repr), logged=WITHHELD),
    "upstream quotes the key": Failure("openai_error", failure(401, f"bad key {API_KEY}"), logged="bad key ***"),
    "upstream is busy and quotes": Failure("openai_rate_limited", echo(429), logged=WITHHELD),
    "upstream breaks and quotes": Failure(
        "openai_error", echo(500, plainly, "text/html"), logged="InternalServerError"
    ),
    "upstream answers with text that quotes": Failure(
        "openai_error", echo(200, plainly, "text/plain"), logged=WITHHELD
    ),
    "upstream answers with a page that quotes": Failure(
        "openai_error", quoting("<!doctype html>{}", "text/html"), logged=WITHHELD
    ),
    "upstream answers with invalid JSON that quotes": Failure(
        "openai_error", quoting('{{"choices": [{}', "application/json"), logged=WITHHELD
    ),
    "upstream tells of an error with status 200 and quotes": Failure(
        "openai_error", quoting('{{"error": {{"message": {}}}}}', "application/json"), logged=WITHHELD
    ),
    "refusal": Failure("openai_refused", completion(None, refusal=NEW_ANSWER), logged="refusal"),
    "content filter": Failure("openai_error", completion(NEW_ANSWER, "content_filter"), logged='"content_filter"'),
    "cut connection": Failure("openai_error", cut, logged="APIConnectionError"),
    "deadline": Failure("openai_timeout", stall, {"OPENAI_TIMEOUT_SECONDS": "0.2"}, logged="ModelTimeoutError"),
    "no model": Failure(
        "openai_error", environment={"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, logged="APIConnectionError"
    ),
    "question breaks a constraint": Failure(
        "database_error", constraint=f"content NOT LIKE '%{QUESTION[13:21]}%'", logged=WITHHELD
    ),
    "answer breaks a constraint": Failure("database_error", constraint="content NOT LIKE '%Reyk%'", logged=WITHHELD),
    "message with NUL": Failure("validation_error", body={"message": f"{QUESTION}\0"}),
    "message too long": Failure("validation_error", environment={"MAX_MESSAGE_CHARS": "50"}),
    "message in a list": Failure("validation_error", body={"message": [QUESTION]}),
    "selected text in an object": Failure("validation_error", body={"selected_text": {EXCERPT: EXCERPT}}),
    "body too large": Failure("payload_too_large", body={"padding": [QUESTION] * 10_000}),
}


@pytest.fixture(scope="session")
def database_with_password(postgres: PostgresServer) -> str:
    """A migrated database whose address holds a password; the server does not ask for it."""
    asyncio.run(run(postgres.url(), "CREATE DATABASE with_password"))
    migrate(postgres.url("with_password"))
    password = PASSWORD.replace("$", "%24")
    return postgres.url("with_password").replace("postgres@", f"postgres:{password}@")


async def run(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@asynccontextmanager
async def demanding(url: str, constraint: str | None) -> AsyncIterator[None]:
    """Have the messages table demand something of new rows."""
    if constraint is None:
        yield
        return
    await run(url, f"ALTER TABLE messages ADD CONSTRAINT demand CHECK ({constraint}) NOT VALID")
    try:
        yield
    finally:
        await run(url, "ALTER TABLE messages DROP CONSTRAINT demand")


@on_one_database
@pytest.mark.parametrize("failing", FAILURES.values(), ids=FAILURES)
async def test_no_failure_tells_or_logs_a_secret_or_a_word_of_the_conversation(
    serve: Serve,
    model_server: FakeOpenAI,
    database_with_password: str,
    failing: Failure,
) -> None:
    environment = {"DATABASE_URL": database_with_password, "LOG_LEVEL": "DEBUG", **failing.environment}
    service = await serve(**environment)
    model_server.enqueue(completion(EARLIER_ANSWER))
    earlier = (await service.chat(EARLIER_QUESTION)).json()
    model_server.enqueue(failing.reply, failing.reply)
    in_session = {"message": QUESTION, "session_id": earlier.get("session_id"), **failing.body}
    about_excerpt = {"message": QUESTION, "selected_text": EXCERPT, **failing.body}
    private = {"Authorization": f"Bearer {TOKEN}", "Cookie": f"reader={COOKIE}"}

    async with demanding(database_with_password, failing.constraint):
        for body in (in_session, about_excerpt):
            response = await service.client.post("/chat", json=body, headers=private)

            assert response.json() == {"error": IsPartialDict(code=failing.code)}
            assert leaks(f"{response.text} {response.headers}") == []

    assert failing.logged is None or failing.logged in service.output
    assert leaks(service.output) == []


@on_one_database
@pytest.mark.parametrize(
    "error",
    [
        pytest.param(RuntimeError, id="plain"),
        pytest.param(KeyError, id="as repr"),
        pytest.param(lambda question: chained(RuntimeError("no index"), LookupError(question)), id="in a cause"),
        pytest.param(lambda question: ExceptionGroup("no index", [LookupError(question)]), id="in a group"),
    ],
)
async def test_a_retriever_that_fails_and_quotes_the_reader_quotes_nothing_into_the_log(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: Callable[[str], Exception]
) -> None:
    monkeypatch.setitem(app.dependency_overrides, get_retriever, retriever(error))

    response = await service.chat(QUESTION)

    assert response.status_code == 200
    [record] = service.log("retrieval.failed")
    assert WITHHELD in record["traceback"]
    assert leaks(service.output) == []


@on_one_database
async def test_no_success_logs_a_secret_or_a_word_of_the_conversation(
    serve: Serve, model_server: FakeOpenAI, database_with_password: str
) -> None:
    service = await serve(DATABASE_URL=database_with_password, LOG_LEVEL="DEBUG")
    model_server.enqueue(completion(EARLIER_ANSWER), completion(NEW_ANSWER), completion(NEW_ANSWER))

    session_id = (await service.chat(EARLIER_QUESTION)).json()["session_id"]
    in_session = await service.chat(QUESTION, session_id=session_id)
    about_excerpt = await service.chat(QUESTION, selected_text=EXCERPT)

    assert [in_session.status_code, about_excerpt.status_code] == [200, 200]
    assert EARLIER_ANSWER in {message["content"] for message in model_server.requests[1]["messages"]}
    assert model_server.headers[0]["authorization"] == f"Bearer {API_KEY}"
    assert leaks(service.output) == []


@pytest.fixture
def talkative_sdk() -> Iterator[None]:
    """Have the SDK log what it sends, as OPENAI_LOG=debug does when it is imported."""
    sdk = logging.getLogger("openai")
    level = sdk.level
    sdk.setLevel(logging.DEBUG)
    yield
    sdk.setLevel(level)


@on_one_database
async def test_an_sdk_that_was_told_to_log_tells_nothing_of_the_conversation(
    talkative_sdk: None, service: Service
) -> None:
    response = await service.chat(QUESTION, selected_text=EXCERPT)

    assert response.status_code == 200
    assert "DEBUG" in {record["level"] for record in service.log() if record["logger"].startswith("openai.")}
    assert leaks(service.output) == []
