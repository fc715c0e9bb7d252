"""What a turn reads and writes: the conversation, the question and the reply.

The id of a reply is derived from the id of its question, so the primary key allows each question one reply. Which request may
answer a question is decided in `idempotency.py`.
"""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Float,
    FromClause,
    Integer,
    Row,
    Select,
    bindparam,
    delete,
    func,
    insert,
    inspect,
    literal_column,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import aliased
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate
from sqlmodel import col

from app.citations import without_markers
from app.database import Database, Statement
from app.errors import (
    AnswerNotFoundError,
    DuplicateKeyError,
    MissingReferenceError,
    SessionNotFoundError,
    TurnInProgressError,
)
from app.llm import Completion
from app.models import (
    TOKEN_COUNTS,
    ChatSession,
    Feedback,
    Message,
    MessageBase,
    MessageRole,
    Source,
    TimeInDatabase,
    utc_now,
)
from app.prompt import PastTurn

_TITLE_CHARS = 80
_COLUMNS = inspect(Message).columns


@dataclass(frozen=True)
class Conversation:
    """A session as a turn finds it, or as the turn begins it."""

    session_id: uuid.UUID
    is_new: bool = False
    owner: str | None = None
    """The digest of its reader's token; without one, whoever knows the id may continue the session."""
    title: str | None = None
    history: Sequence[PastTurn] = ()
    """The last answered questions, oldest first."""
    last_message_at: datetime | None = None

    @property
    def previous_question(self) -> str | None:
        """The last question of the history."""
        return self.history[-1].question if self.history else None


def new_conversation(session_id: uuid.UUID, *, owner: str | None, first_message: str) -> Conversation:
    """Return a conversation that is not recorded yet, named after its first message."""
    return Conversation(session_id, is_new=True, owner=owner, title=title_of(first_message))


def title_of(first_message: str) -> str:
    """Return what a session is called: its first message on one line, cut where it is long."""
    line = " ".join(first_message.split())
    return line if len(line) <= _TITLE_CHARS else f"{line[: _TITLE_CHARS - 1]}…"


async def find_conversation(
    db: Database,
    session_id: str | None,
    *,
    owner: str | None,
    history_limit: int,
    before: MessageBase | None = None,
) -> Conversation | None:
    """Return the session with its history, or None if the id is absent, malformed, unknown or another reader's.

    The history has at most `history_limit` messages, in whole turns; with `before`, of turns whose question came earlier. Its
    answers are without their citation markers, whose passages it does not have.
    """
    try:
        known_id = uuid.UUID(session_id or "")
    except ValueError:
        return None
    parameters: dict[str, Any] = {"session": known_id}
    if before is not None:
        parameters |= {"before_created_at": before.created_at, "before_id": before.id}
    rows = await db.execute((_session_with_turns(history_limit // 2, bounded=before is not None), parameters))
    if not rows or rows[0].owner not in {None, owner}:
        return None
    history = [
        PastTurn(row.question, row.excerpt, without_markers(row.answer) if row.sources else row.answer)
        for row in rows
        if row.answer is not None
    ]
    return Conversation(
        known_id,
        owner=rows[0].owner,
        title=rows[0].title,
        history=history,
        last_message_at=rows[0].last_message_at,
    )


@lru_cache
def _session_with_turns(turns: int, *, bounded: bool) -> Select[Any]:
    """Return the statement for a session and its last answered questions, oldest first.

    A session without turns gives one row, which has no answer; an unknown session gives none. The number of turns is no
    parameter: the planner of PostgreSQL must know that they are few.
    """
    session: BindParameter[uuid.UUID] = bindparam("session")
    reply, question, earlier = aliased(Message), aliased(Message), aliased(Message)
    # Old replies do not name their question: it is the last one before them.
    question_before = (
        select(col(earlier.id))
        .where(
            col(earlier.session_id) == session,
            col(earlier.role) == MessageRole.user,
            _place(earlier) < _place(reply),
        )
        .order_by(*_newest_first(earlier))
        .limit(literal_column("1", Integer))
        .scalar_subquery()
        .correlate(reply)
    )
    question_id = func.coalesce(col(reply.reply_to), question_before).label("question_id")
    replies: Any = (
        select(question_id, col(reply.content).label("answer"), col(reply.sources))
        .where(col(reply.session_id) == session, col(reply.role) == MessageRole.assistant)
        .order_by(*_newest_first(reply))
        .limit(literal_column(str(turns), Integer))
    )
    if bounded:
        asked = aliased(Message)
        replies = replies.join(asked, col(asked.id) == col(reply.reply_to)).where(_place(asked) < _place_of("before"))
    recent = replies.subquery()
    last_message_at = (
        select(func.max(col(Message.created_at))).where(col(Message.session_id) == session).scalar_subquery()
    )
    return (
        select(
            col(ChatSession.owner),
            col(ChatSession.title),
            last_message_at.label("last_message_at"),
            col(question.content).label("question"),
            col(question.selected_text).label("excerpt"),
            recent.c.answer,
            recent.c.sources,
        )
        .select_from(ChatSession)
        .outerjoin(recent.join(question, col(question.id) == recent.c.question_id), literal_column("true"))
        .where(col(ChatSession.id) == session)
        .order_by(col(question.created_at), col(question.id))
    )


def _place(message: Any) -> Any:
    """Return what orders messages in time; the id decides between equal times."""
    return tuple_(message.created_at, message.id)


def _place_of(name: str) -> Any:
    """Return the place of a message that the parameters `<name>_created_at` and `<name>_id` give."""
    return tuple_(
        *(bindparam(f"{name}_{column.key}", type_=column.type) for column in (_COLUMNS.created_at, _COLUMNS.id))
    )


def _newest_first(message: Any) -> tuple[Any, Any]:
    return message.created_at.desc(), message.id.desc()


def time_after(previous: datetime | None) -> datetime:
    """Return the current time, or the next microsecond after the previous message if the clock stands still or goes back."""
    now = utc_now()
    return now if previous is None else max(now, previous + timedelta(microseconds=1))


_BEGIN_SESSION = insert(ChatSession).values(
    id=bindparam("session"),
    created_at=bindparam("now"),
    updated_at=bindparam("now"),
    owner=bindparam("session_owner"),
    title=bindparam("session_title"),
)
_MESSAGE_VALUES: dict[str, ColumnElement[Any]] = {
    name: bindparam(f"message_{name}", type_=_COLUMNS[name].type) for name in MessageBase.model_fields
}
# A claim runs out by the database's clock.
_MESSAGE_VALUES["answering_until"] = TimeInDatabase(bindparam("message_answering_seconds", type_=Float()))
_INSERT_MESSAGE = insert(Message).values(_MESSAGE_VALUES)


def _move_session_on(later: Any) -> ReturningUpdate[tuple[datetime]]:
    """Return the statement that gives a session the time of its next question: now, or just later than its latest one."""
    return (
        update(ChatSession)
        .where(col(ChatSession.id) == bindparam("session"))
        .values(updated_at=later)
        .returning(col(ChatSession.updated_at))
    )


def _insert_question(moved: FromClause) -> ReturningInsert[tuple[datetime]]:
    values = [*(_MESSAGE_VALUES | {"created_at": moved.c.updated_at}).values()]
    return insert(Message).from_select([*_MESSAGE_VALUES], select(*values)).returning(col(Message.created_at))


_now = bindparam("now", type_=_COLUMNS.created_at.type)
_LATER_THAN_LATEST = func.greatest(_now, col(ChatSession.updated_at) + text("interval '1 microsecond'"))
# SQLite counts milliseconds.
_LATER_THAN_LATEST_ON_SQLITE = func.max(
    _now, func.strftime("%Y-%m-%d %H:%M:%f000", col(ChatSession.updated_at), "+0.001 seconds")
)
# The lock on the session's row makes its questions wait for each other, so they are committed in the order of their times.
_RECORD_QUESTION = (_insert_question(_move_session_on(_LATER_THAN_LATEST).cte("moved")),)
_RECORD_QUESTION_ON_SQLITE = (
    _move_session_on(_LATER_THAN_LATEST_ON_SQLITE),
    _insert_question(
        select(col(ChatSession.updated_at)).where(col(ChatSession.id) == bindparam("session")).subquery("moved")
    ),
)


def _insertion(message: MessageBase) -> Statement:
    parameters = {f"message_{name}": value for name, value in message.model_dump().items()}
    until = parameters.pop("message_answering_until")
    parameters["message_answering_seconds"] = None if until is None else (until - utc_now()).total_seconds()
    return _INSERT_MESSAGE, parameters


async def record_question(db: Database, question: MessageBase, conversation: Conversation) -> None:
    """Write the question, and begin its session or move it on; the question gets the time at which it is recorded.

    In one session a question that is recorded later has a later time, whichever instance records it. So whoever reads the
    session page by page misses none.

    Raises DuplicateKeyError if there is a question with this id, and SessionNotFoundError if the session has been deleted.
    """
    session: dict[str, Any] = {"session": question.session_id, "now": question.created_at}
    insertion = _insertion(question)
    if conversation.is_new:
        owned = {"session_owner": conversation.owner, "session_title": conversation.title}
        await db.execute((_BEGIN_SESSION, session | owned), insertion)
        return
    parameters = {**session, **insertion[1]}
    recording = _RECORD_QUESTION_ON_SQLITE if db.dsn.sqlite else _RECORD_QUESTION
    rows = await db.execute(*((statement, parameters) for statement in recording))
    if not rows:
        raise SessionNotFoundError
    question.created_at = rows[0].created_at


_question = aliased(Message)
_INSERT_REPLY = insert(Message).values(
    _MESSAGE_VALUES
    # The reader may have rated an answer that was shown to its end and is recorded only now.
    | {
        "feedback": select(col(_question.feedback))
        .where(col(_question.id) == bindparam("message_reply_to"))
        .scalar_subquery()
    }
)


@dataclass(frozen=True)
class Answer:
    """An answer as it is recorded: its text has citation markers `[n]`, one for each source that it cites."""

    text: str
    sources: Sequence[Source]
    completion: Completion
    """What the model said, and what it took."""
    is_without_book: bool = False
    """Whether the book could not be searched."""


async def record_reply(db: Database, question: MessageBase, answer: Answer) -> MessageBase | Row[Any]:
    """Write the reply and return it, or return the one that the question has already.

    Raises SessionNotFoundError if the question has been deleted.
    """
    reply = _reply(question, answer)
    try:
        await _write(db, (_INSERT_REPLY, _insertion(reply)[1]))
    except DuplicateKeyError:
        rows = await db.execute((select(Message).where(col(Message.id) == reply.id), {}))
        if not rows:
            raise SessionNotFoundError from None
        return rows[0]
    return reply


async def is_answered(db: Database, question_id: uuid.UUID) -> bool:
    """Whether the question has its reply."""
    return bool(await db.execute((select(col(Message.id)).where(col(Message.id) == reply_id(question_id)), {})))


_claimed = aliased(Message)
_IS_OURS = (
    select(_claimed)
    .where(col(_claimed.id) == bindparam("question_id"), col(_claimed.claim_id) == bindparam("claim_id"))
    .exists()
)
# Replies go with their questions, so a late reply to an earlier question stays.
_DELETE_SAID_AFTER = delete(Message).where(
    _IS_OURS,
    col(Message.session_id) == bindparam("session"),
    col(Message.reply_to).is_(None),
    col(Message.id) != bindparam("reply"),
    _place(Message) > _place_of("question"),
    col(Message.created_at) <= bindparam("until"),
)
_OF_ANSWER = (
    *("content", "created_at", "reply_to", "sources"),
    *("truncated", "model", "service_tier", *TOKEN_COUNTS, "duration_ms", "retrieved", "cited"),
)
# The dialect of SQLite writes it in the same words.
_UPSERT = postgresql.insert(Message).from_select([*_MESSAGE_VALUES], select(*_MESSAGE_VALUES.values()).where(_IS_OURS))
_REPLACE_REPLY = _UPSERT.on_conflict_do_update(
    index_elements=["id"],
    set_={name: _UPSERT.excluded[name] for name in _OF_ANSWER} | {"feedback": None, "feedback_comment": None},
).returning(col(Message.id))


async def replace_reply(db: Database, question: MessageBase, answer: Answer, *, until: datetime | None) -> MessageBase:
    """Write the reply in the place of an older one, and delete what was said after the question up to `until`, in one step.

    Raises TurnInProgressError if another request has claimed the question meanwhile, and SessionNotFoundError if the question
    has been deleted. Nothing is changed then.
    """
    reply = _reply(question, answer)
    claim = {"question_id": question.id, "claim_id": question.claim_id}
    said_after = {
        **claim,
        "session": question.session_id,
        "reply": reply.id,
        "question_created_at": question.created_at,
        "until": until or question.created_at,
    }
    written = {**claim, **_insertion(reply)[1]}
    if not await _write(db, (_DELETE_SAID_AFTER, said_after), (_REPLACE_REPLY, written)):
        if await db.execute((select(col(Message.id)).where(col(Message.id) == question.id), {})):
            raise TurnInProgressError
        raise SessionNotFoundError
    return reply


async def rate_messages(db: Database, session_id: uuid.UUID, ids: Collection[uuid.UUID], feedback: str) -> None:
    """Record what the reader thinks of these messages of the session; that of a reply to come waits with its question."""
    in_session = col(Message.session_id) == session_id
    # A comment belongs to the rating that it came with.
    values = {"feedback": feedback, "feedback_comment": None}
    rated = update(Message).where(in_session, col(Message.id).in_(ids)).values(values)
    found = {row.id for row in await db.execute((rated.returning(col(Message.id)), {}))}
    if missing := set(ids) - found:
        answered = aliased(Message)
        open_questions = select(col(Message.id)).where(
            in_session,
            col(Message.role) == MessageRole.user,
            ~select(answered).where(col(answered.reply_to) == col(Message.id)).exists(),
        )
        rows = await db.execute((open_questions, {}))
        if waiting := [row.id for row in rows if reply_id(row.id) in missing]:
            await db.execute((update(Message).where(col(Message.id).in_(waiting)).values(feedback=feedback), {}))


async def rate_answer(db: Database, session_id: uuid.UUID, answer_id: uuid.UUID, feedback: Feedback) -> None:
    """Record what the reader thinks of an answer; raises AnswerNotFoundError if the session has none with this id."""
    rated = (
        update(Message)
        .where(
            col(Message.session_id) == session_id,
            col(Message.id) == answer_id,
            col(Message.role) == MessageRole.assistant,
        )
        .values(feedback=feedback.rating, feedback_comment=feedback.comment)
        .returning(col(Message.id))
    )
    if not await db.execute((rated, {})):
        raise AnswerNotFoundError


def _reply(question: MessageBase, answer: Answer) -> MessageBase:
    reply = MessageBase(
        id=reply_id(question.id),
        session_id=question.session_id,
        role=MessageRole.assistant,
        content=answer.text,
        created_at=time_after(question.created_at),
        reply_to=question.id,
        sources=list(answer.sources) or None,
        truncated=answer.completion.is_truncated or None,
        model=answer.completion.model,
        service_tier=answer.completion.service_tier,
        duration_ms=answer.completion.duration_ms,
        retrieved=None if answer.is_without_book else answer.completion.passages,
        cited=len(answer.sources),
    )
    for name in TOKEN_COUNTS:
        setattr(reply, name, answer.completion.usage.get(name))
    return reply


def reply_id(question_id: uuid.UUID) -> uuid.UUID:
    """Return the id of the one reply that a question can have."""
    return uuid.uuid5(question_id, "reply")


async def _write(db: Database, *statements: Statement) -> Sequence[Row[Any]]:
    """Execute the statements; raises SessionNotFoundError if the session, or the question, has been deleted meanwhile."""
    try:
        return await db.execute(*statements)
    except MissingReferenceError as error:
        raise SessionNotFoundError from error
