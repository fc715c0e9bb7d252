"""Neither a secret nor a word of a reader gets into the log."""

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest
from dirty_equals import IsPartialDict
from pydantic import SecretStr

from app.commands import opened_database
from app.config import Settings
from app.logs import JsonFormatter, TextFormatter
from app.retrieval import Passage, Query
from tests import kept
from tests.conftest import API_KEY, PlugIn, Serve, Service
from tests.fake_openai import (
    Exchange,
    FakeOpenAI,
    Reply,
    completion,
    cut,
    failure,
    raw_body,
    stall,
)
from tests.marks import on_one_database
from tests.postgres import PostgresServer
from tests.records import chained, failed, format_in_request, unescaped


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


def test_a_secret_that_json_spells_in_another_way_is_redacted() -> None:
    secret = 'pa"ss\\wörd'

    line = JsonFormatter([secret]).format(failed(ValueError("wrong"), password=secret, nested={"passwords": [secret]}))

    assert json.loads(line) == IsPartialDict(password="***", nested={"passwords": ["***"]})


def test_a_secret_at_the_end_of_a_long_message_is_not_logged_in_part() -> None:
    line = JsonFormatter([API_KEY]).format(failed(ValueError("." * (2_000 - len(API_KEY) + 1) + API_KEY)))

    assert API_KEY[:-1] not in line


PASSWORD = "pa$$word-in-url"
TOKEN = "bearer-token-of-the-reader"
GATEWAY_KEY = "key-of-the-gateway"
COOKIE = "cookie-of-the-reader"
QUESTION = 'Why does my "Zanzibar" limp?\nروبوٹ کیوں لنگڑاتا ہے؟'
EXCERPT = "A robot from Timbuktu walks:\nleft,\nright,\nleft.\nدو ٹانگوں والا روبوٹ پھسلتا ہے"
EARLIER_QUESTION = "What did they build in Samarkand, long ago?"
EARLIER_ANSWER = "They built automata in Vladivostok, so I am told."
NEW_ANSWER = "It limps because of the cold in Reykjavik, I think."
CONFIDENTIAL = {
    "API key": API_KEY,
    "gateway key": GATEWAY_KEY,
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


def what_came_before(messages: list[dict[str, str]]) -> str:
    return messages[-2]["content"]


def in_json_twice(messages: list[dict[str, str]]) -> str:
    return json.dumps(json.dumps(messages))


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
    "upstream quotes an earlier answer": Failure("openai_error", echo(400, what_came_before), logged=WITHHELD),
    "upstream quotes as repr": Failure("openai_error", echo(403, repr), logged=WITHHELD),
    "upstream quotes the key": Failure("openai_error", failure(401, f"bad key {API_KEY}"), logged="bad key ***"),
    "upstream quotes the gateway's key": Failure(
        "openai_error",
        failure(401, f"bad key {GATEWAY_KEY}"),
        {"OPENAI_CUSTOM_HEADERS": f"X-Team: key\nApi-Key: Bearer {GATEWAY_KEY}"},
        logged="bad key ***",
    ),
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
def database_with_password(postgres: PostgresServer, postgresql_template: str, _kept: None) -> str:
    """A migrated database whose address holds a password; the server does not ask for it."""
    name = f"with_password_{uuid.uuid4().hex}"
    asyncio.run(run(postgres.url(), f"CREATE DATABASE {name} TEMPLATE {postgresql_template}"))
    password = PASSWORD.replace("$", "%24")
    url = postgres.url(name).replace("postgres@", f"postgres:{password}@")
    kept.keep(url)
    return url


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
    service: Service, plug_in: PlugIn, error: Callable[[str], Exception]
) -> None:
    async def retrieve(query: Query) -> Sequence[Passage]:
        raise error(query.question)

    plug_in(retrieve)

    response = await service.chat(QUESTION)

    assert response.status_code == 200
    [record] = service.log("retrieval.failed")
    assert WITHHELD in record["traceback"]
    assert leaks(service.output) == []


@on_one_database
async def test_the_address_of_the_readers_page_is_not_quoted_either(service: Service, plug_in: PlugIn) -> None:
    async def retrieve(query: Query) -> Sequence[Passage]:
        raise LookupError(query.page_url)

    plug_in(retrieve)

    await service.chat(QUESTION, page_url="https://book.example.org/ros2?student=4711")

    [record] = service.log("retrieval.failed")
    assert WITHHELD in record["traceback"]
    assert "4711" not in service.output


@on_one_database
async def test_a_question_that_is_answered_anew_is_quoted_as_little(service: Service, plug_in: PlugIn) -> None:
    async def retrieve(query: Query) -> Sequence[Passage]:
        raise LookupError(query.question)

    session_id = (await service.chat(QUESTION)).json()["session_id"]
    question, _ = await service.tables.messages()
    plug_in(retrieve)
    again = {"type": "threads.retry_after_item", "params": {"thread_id": session_id, "item_id": str(question.id)}}

    response = await service.client.post("/chatkit", json=again)

    assert "thread.item.done" in response.text
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


async def test_a_commands_warnings_show_no_secret(
    migrated_sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    settings = Settings(database_url=SecretStr(migrated_sqlite_url), openai_api_key=SecretStr(API_KEY))

    async with opened_database(settings):
        logging.getLogger("app").warning("failed", exc_info=ValueError(f"of the key {API_KEY}"))

    said = capsys.readouterr().err
    assert "of the key ***" in said
    assert API_KEY not in said


@on_one_database
async def test_a_comment_that_cannot_be_recorded_is_not_quoted(serve: Serve, database_with_password: str) -> None:
    service = await serve(DATABASE_URL=database_with_password)
    address = f"/chat/{(await service.chat()).json()['session_id']}/messages"
    _, answer = (await service.client.get(address)).json()["data"]

    async with demanding(database_with_password, "feedback_comment NOT LIKE '%Zanzibar%'"):
        comment = {"rating": "negative", "comment": "It limps in Zanzibar."}
        response = await service.client.put(f"{address}/{answer['id']}/feedback", json=comment)

    assert response.json()["error"]["code"] == "database_error"
    assert WITHHELD in service.output
    assert "Zanzibar" not in service.output
