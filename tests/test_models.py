"""The shapes of the API on their own, and the tables through the ORM on both databases."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from dirty_equals import IsPartialDict
from pydantic import ValidationError
from sqlalchemy import Row, insert, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import dsn
from app.conversations import Answer, Conversation, record_question, record_reply
from app.database import Database
from app.errors import DuplicateKeyError, SessionNotFoundError
from app.history import load_messages
from app.llm import Completion
from app.models import (
    ChatRequest,
    ChatResponse,
    ChatSession,
    Document,
    HealthResponse,
    Message,
    MessageBase,
    MessageRole,
    utc_now,
)
from tests import kept
from tests.conftest import Tables
from tests.marks import on_postgresql

SESSION_ID = uuid.UUID("5f0c954e-6a35-4d0f-9d32-0d5a1c7e2b11")
LONG_AGO = datetime(2020, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)


def test_a_request_needs_nothing_but_a_message() -> None:
    request = ChatRequest.model_validate_json('{"message": "What is a robot?"}')

    assert request.model_dump() == {
        "message": "What is a robot?",
        "session_id": None,
        "selected_text": None,
        "page_url": None,
        "scope": "book",
        "reader_note": None,
        "snippets": False,
        "follow_ups": False,
    }


@pytest.mark.parametrize("blank", ["", " ", "\n\t"])
def test_a_blank_selected_text_is_none(blank: str) -> None:
    assert ChatRequest(message="What?", selected_text=blank).selected_text is None


@pytest.mark.parametrize(
    "fields",
    [
        {"message": " What?\n", "session_id": str(SESSION_ID), "selected_text": "A robot.\t"},
        {"message": "روبوٹ 🤖 e\u0301", "session_id": "any text", "selected_text": "متن"},
        {"message": "What?", "session_id": None, "selected_text": None},
    ],
)
def test_a_request_keeps_its_texts_as_they_are(fields: dict[str, Any]) -> None:
    request = ChatRequest.model_validate(fields)

    assert request.model_dump(include={"message", "session_id", "selected_text"}) == fields
    assert ChatRequest.model_validate_json(request.model_dump_json()) == request


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({}, "message", "Field required"),
        ({"message": None}, "message", "Input should be a valid string"),
        ({"message": 7}, "message", "Input should be a valid string"),
        ({"message": ["What?"]}, "message", "Input should be a valid string"),
        ({"message": ""}, "message", "Value error, must not be blank"),
        ({"message": " \n\t\N{NO-BREAK SPACE}"}, "message", "Value error, must not be blank"),
        ({"message": "a\x00b"}, "message", "Value error, must not contain NUL characters"),
        ({"message": "a\ud83d"}, "message", "Value error, must not contain unpaired surrogates"),
        ({"message": "What?", "session_id": 7}, "session_id", "Input should be a valid string"),
        ({"message": "What?", "selected_text": 7}, "selected_text", "Input should be a valid string"),
        (
            {"message": "What?", "selected_text": "\x00"},
            "selected_text",
            "Value error, must not contain NUL characters",
        ),
        (
            {"message": "What?", "selected_text": "\udc00"},
            "selected_text",
            "Value error, must not contain unpaired surrogates",
        ),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(fields: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        ChatRequest.model_validate(fields)

    assert refusal.value.errors() == [IsPartialDict(loc=(field,), msg=reason)]


@pytest.mark.parametrize(
    "address",
    [
        "https://book.example.org/docs/ros2#nodes",
        "http://localhost:3000/docs/?lang=ur",
        "HTTPS://book.example.org",
        "https://کتاب.example/روبوٹ",
        "https://book.example.org/" + "x" * 1975,
    ],
)
def test_the_page_of_the_reader_is_kept_as_it_is(address: str) -> None:
    assert ChatRequest(message="What?", page_url=f" {address}\n").page_url == address


@pytest.mark.parametrize("blank", [None, "", " \n"])
def test_a_blank_page_is_none(blank: str | None) -> None:
    assert ChatRequest(message="What?", page_url=blank).page_url is None


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("/docs/ros2", "Value error, must be an absolute http or https address"),
        ("book.example.org/docs", "Value error, must be an absolute http or https address"),
        ("//book.example.org/docs", "Value error, must be an absolute http or https address"),
        ("javascript:alert(1)", "Value error, must be an absolute http or https address"),
        ("file:///etc/passwd", "Value error, must be an absolute http or https address"),
        ("ftp://book.example.org", "Value error, must be an absolute http or https address"),
        ("http:book.example.org", "Value error, must be an absolute http or https address"),
        ("https://", "Value error, must be an absolute http or https address"),
        ("https://[::1", "Value error, must be an absolute http or https address"),
        ("https://book.example.org:99999/", "Value error, must be an absolute http or https address"),
        ("https://a\x00b", "Value error, must not contain NUL characters"),
        ("https://a.example/\ud800", "Value error, must not contain unpaired surrogates"),
        (7, "Input should be a valid string"),
        ("https://book.example.org/" + "x" * 1976, "Value error, must not be longer than 2000 characters"),
    ],
)
def test_a_page_that_has_no_address_on_the_web_is_refused(address: Any, reason: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        ChatRequest.model_validate({"message": "What?", "page_url": address})

    assert refusal.value.errors() == [IsPartialDict(loc=("page_url",), msg=reason)]


def test_a_response_is_written_as_text_with_its_time_in_utc() -> None:
    response = ChatResponse(response="A machine. 🤖", session_id=SESSION_ID, timestamp=LONG_AGO)

    assert response.model_dump_json(exclude_none=True) == (
        '{"response":"A machine. 🤖","session_id":"5f0c954e-6a35-4d0f-9d32-0d5a1c7e2b11",'
        '"timestamp":"2020-02-29T23:59:59.999999Z"}'
    )
    assert ChatResponse.model_validate_json(response.model_dump_json()) == response


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"session_id": SESSION_ID, "timestamp": LONG_AGO}, "response"),
        ({"response": None, "session_id": SESSION_ID, "timestamp": LONG_AGO}, "response"),
        ({"response": "A machine.", "timestamp": LONG_AGO}, "session_id"),
        ({"response": "A machine.", "session_id": "mine", "timestamp": LONG_AGO}, "session_id"),
        ({"response": "A machine.", "session_id": SESSION_ID}, "timestamp"),
        ({"response": "A machine.", "session_id": SESSION_ID, "timestamp": "today"}, "timestamp"),
    ],
)
def test_a_response_has_all_of_its_fields(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        ChatResponse.model_validate(fields)

    assert refusal.value.errors() == [IsPartialDict(loc=(field,))]


def test_health_is_healthy_and_nothing_else() -> None:
    assert HealthResponse().model_dump_json() == '{"status":"healthy"}'
    assert HealthResponse.model_validate_json('{"status": "healthy"}') == HealthResponse()
    with pytest.raises(ValidationError) as refusal:
        HealthResponse.model_validate({"status": "poorly"})
    assert refusal.value.errors() == [IsPartialDict(loc=("status",), msg="Input should be 'healthy'")]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated database of each kind, without rows, connected to as the service does."""
    database = kept.database(dsn.parse(database_url), pool_size=2)
    if database.dsn.sqlite:
        await database.migrate()
    await Tables(database.engine).clear()
    yield database
    await database.close()


async def test_questions_have_the_order_in_which_they_are_recorded_whatever_the_clocks_say(database: Database) -> None:
    """Whoever reads the session page by page meanwhile misses none."""
    await add(database, ChatSession(id=SESSION_ID, created_at=LONG_AGO, updated_at=LONG_AGO))
    reader = Database(database.dsn, pool_size=1)
    skewed = random.Random(7)

    async def ask(number: int) -> datetime:
        clock = utc_now() + timedelta(seconds=skewed.uniform(-5, 5))
        question = MessageBase(session_id=SESSION_ID, role=MessageRole.user, content=str(number), created_at=clock)
        await record_question(database, question, Conversation(SESSION_ID))
        return question.created_at

    asking = asyncio.gather(*map(ask, range(40)))
    read_so_far: list[Row[Any]] = []
    has_more = True
    while has_more:
        is_over = asking.done()
        after = read_so_far[-1].id if read_so_far else None
        rows, more_follow = await load_messages(reader, SESSION_ID, after=after, limit=5, order="asc")
        read_so_far += rows
        has_more = more_follow or not is_over
    await reader.close()

    assert sorted(row.created_at for row in read_so_far) == sorted(await asking)
    assert {row.content for row in read_so_far} == {str(number) for number in range(40)}
    [session] = await Tables(database.engine).sessions()
    assert session.updated_at == read_so_far[-1].created_at


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_every_connection_to_sqlite_refuses_rows_of_no_session(database: Database) -> None:
    async with database.engine.connect() as one, database.engine.connect() as another:
        for connection in (one, another):
            with pytest.raises(IntegrityError, match="FOREIGN KEY"):
                await connection.execute(
                    insert(Message).values(session_id=SESSION_ID, role=MessageRole.user, content="Hello?")
                )


async def test_what_is_written_to_a_session_that_is_gone_or_twice_says_so(database: Database) -> None:
    question = MessageBase(session_id=SESSION_ID, role=MessageRole.user, content="How many legs?")
    beginning = Conversation(SESSION_ID, is_new=True)
    answer = Answer("Six.", [], Completion("Six.", False, 0, "model", None, 1, {}))  # noqa: FBT003  # Its fields in their order.

    with pytest.raises(SessionNotFoundError):
        await record_reply(database, question, answer)
    with pytest.raises(SessionNotFoundError):
        await record_question(database, question, Conversation(SESSION_ID))
    await record_question(database, question, beginning)
    with pytest.raises(DuplicateKeyError):
        await record_question(database, question, beginning)
    first, second = [await record_reply(database, question, answer) for _ in range(2)]

    assert first.id == second.id
    assert [message.content for message in await Tables(database.engine).messages()] == ["How many legs?", "Six."]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_whoever_writes_to_sqlite_waits_five_seconds_for_others(database: Database) -> None:
    async with database.engine.connect() as connection:
        assert await connection.scalar(text("PRAGMA busy_timeout")) == 5_000


async def add(database: Database, *rows: ChatSession | Message | Document) -> None:
    """Write the rows, each after those that it refers to."""
    async with AsyncSession(database.engine) as orm:
        for row in rows:
            orm.add(row)
            await orm.flush()
        await orm.commit()


def conversation() -> tuple[ChatSession, Message, Message]:
    """A session with a question and its reply."""
    question = Message(
        session_id=SESSION_ID,
        role=MessageRole.user,
        content="How many legs?",
        selected_text="A hexapod has six legs.",
        created_at=LONG_AGO,
    )
    reply = Message(session_id=SESSION_ID, role=MessageRole.assistant, content="Six.", created_at=LONG_AGO + INSTANT)
    # The reply first: it is the times that put them in order.
    return ChatSession(id=SESSION_ID, created_at=LONG_AGO, updated_at=LONG_AGO), reply, question


async def test_a_session_is_read_back_with_its_messages_oldest_first(database: Database) -> None:
    await add(database, *conversation())

    async with AsyncSession(database.engine) as orm:
        session = await orm.get_one(ChatSession, SESSION_ID)
        messages = (await orm.exec(select(Message).order_by(col(Message.created_at)))).all()

    assert session.model_dump() == {
        "id": SESSION_ID,
        "created_at": LONG_AGO,
        "updated_at": LONG_AGO,
        "title": None,
        "owner": None,
    }
    assert [(m.session_id, m.role, m.content, m.selected_text, m.created_at) for m in messages] == [
        (SESSION_ID, MessageRole.user, "How many legs?", "A hexapod has six legs.", LONG_AGO),
        (SESSION_ID, MessageRole.assistant, "Six.", None, LONG_AGO + INSTANT),
    ]


async def test_a_message_is_read_back_with_its_session_and_typed_values(database: Database) -> None:
    await add(database, *conversation())

    async with AsyncSession(database.engine) as orm:
        with_session = select(Message, ChatSession).join(ChatSession)
        reply, session = (await orm.exec(with_session.where(Message.role == MessageRole.assistant))).one()

    assert session.id == SESSION_ID
    assert isinstance(reply.id, uuid.UUID)
    assert type(reply.role) is MessageRole
    assert reply.created_at.utcoffset() == timedelta(0)
    assert session.updated_at.utcoffset() == timedelta(0)


async def test_a_time_of_another_zone_is_kept_as_the_same_moment(database: Database) -> None:
    in_karachi = LONG_AGO.astimezone(timezone(timedelta(hours=5)))
    await add(database, ChatSession(id=SESSION_ID, created_at=in_karachi))

    async with AsyncSession(database.engine) as orm:
        session = await orm.get_one(ChatSession, SESSION_ID)

    assert session.created_at == LONG_AGO
    assert session.created_at.utcoffset() == timedelta(0)


async def test_ids_and_times_are_given_where_none_are_set(database: Database) -> None:
    before = datetime.now(UTC)
    session = ChatSession()
    await add(database, session, Message(session_id=session.id, role=MessageRole.system, content="Be brief."))
    after = datetime.now(UTC)

    async with AsyncSession(database.engine) as orm:
        session = (await orm.exec(select(ChatSession))).one()
        message = (await orm.exec(select(Message))).one()

    assert message.session_id == session.id
    assert session.id.version == message.id.version == 4
    for moment in (session.created_at, session.updated_at, message.created_at):
        assert before <= moment <= after


async def test_a_deleted_session_takes_its_messages_along_and_no_others(database: Database) -> None:
    other = ChatSession()
    others = Message(session_id=other.id, role=MessageRole.user, content="What rolls?")
    await add(database, *conversation(), other, others)

    async with AsyncSession(database.engine) as orm:
        await orm.delete(await orm.get_one(ChatSession, SESSION_ID))
        await orm.commit()
        messages = (await orm.exec(select(Message))).all()

    assert [message.content for message in messages] == ["What rolls?"]


async def test_a_deleted_message_leaves_its_session(database: Database) -> None:
    await add(database, *conversation())

    async with AsyncSession(database.engine) as orm:
        question = (await orm.exec(select(Message).where(Message.role == MessageRole.user))).one()
        await orm.delete(question)
        await orm.commit()
        session = await orm.get_one(ChatSession, SESSION_ID)
        messages = (await orm.exec(select(Message).where(Message.session_id == session.id))).all()

    assert [message.content for message in messages] == ["Six."]


async def test_a_message_of_no_session_is_refused(database: Database) -> None:
    with pytest.raises(IntegrityError, match=r"(?i)foreign key"):
        await add(database, Message(session_id=SESSION_ID, role=MessageRole.user, content="Hello?"))


@on_postgresql
async def test_postgresql_refuses_a_role_that_is_none(database: Database) -> None:
    await add(database, *conversation())

    with pytest.raises(DBAPIError, match='invalid input value for enum message_role_enum: "robot"'):
        async with database.engine.begin() as connection:
            await connection.execute(text("UPDATE messages SET role = 'robot'"))


async def test_a_chunk_of_the_book_keeps_its_metadata(database: Database) -> None:
    chunk = Document(
        source="docs/gait.md",
        title="Gait",
        position=3,
        content="Legs 🦿",
        meta={"part": [1, "ب"]},
        created_at=LONG_AGO,
    )
    expected = chunk.model_dump()
    await add(database, chunk)

    async with AsyncSession(database.engine) as orm:
        found = await orm.get_one(Document, expected["id"])
        await orm.delete(found)
        await orm.commit()

    assert found.model_dump() == expected
    assert (expected["embedding"], expected["meta"]) == (None, {"part": [1, "ب"]})
