"""The turn: from a reader's question to the recorded answer."""

import asyncio
import contextlib
import secrets
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header
from fastapi.exceptions import RequestValidationError
from pydantic import BeforeValidator
from sqlalchemy import Row, and_, bindparam, delete, insert, or_, select, tuple_, update
from sqlmodel import col

from app.config import Settings
from app.database import Database, Statement
from app.dependencies import Retrieve, Running, StateRequest, within_rate
from app.errors import (
    ERROR_RESPONSES,
    DatabaseError,
    DuplicateKeyError,
    IdempotencyConflictError,
    MissingReferenceError,
    ModelTimeoutError,
    SessionNotFoundError,
    TurnInProgressError,
)
from app.llm import LanguageModel, PromptMessage
from app.logs import current_request
from app.models import (
    ChatRequest,
    ChatResponse,
    ChatSession,
    DeltaEvent,
    Message,
    MessageBase,
    MessageRole,
    utc_now,
)
from app.prompt import assemble_prompt
from app.retrieval import Passage, Retriever

router = APIRouter(tags=["chat"])


@dataclass(frozen=True)
class Retrieved:
    """The passages that the answer can rely on; told of only if there are any."""

    passages: Sequence[Passage]

    @property
    def sources(self) -> list[dict[str, str]]:
        """Return where each stands and what it is called."""
        return [{"source": passage.source, "title": passage.title} for passage in self.passages]


type TurnEvent = MessageBase | Retrieved | DeltaEvent
"""What is told of a turn under way: the recorded question, what was looked up, each piece of the answer."""

type Emit = Callable[[TurnEvent], None]

IdempotencyKey = Annotated[
    uuid.UUID | None,
    Header(
        description="A UUID of the client's choosing. The same request with the same key gets the recorded answer "
        "instead of a second one, also after a lost connection."
    ),
    # The IETF draft makes the key a structured field's string, which has quotes.
    BeforeValidator(lambda value: value.strip('"') if isinstance(value, str) else value),
]

RETRIEVAL_TIMEOUT_SECONDS = 5.0
CLAIM_MARGIN_SECONDS = 10.0
"""How much longer than the model's deadline a turn with a key may take, for retrieval and the database, before it is cut off."""


def require_within_limits(question: ChatRequest, settings: Settings) -> None:
    """Refuse a question as invalid if its texts are longer than the settings allow."""
    limits = {"message": settings.max_message_chars, "selected_text": settings.max_selected_text_chars}
    too_long = [
        {"loc": ("body", name), "msg": f"must not be longer than {limit} characters"}
        for name, limit in limits.items()
        if len(getattr(question, name) or "") > limit
    ]
    if too_long:
        raise RequestValidationError(too_long)


@dataclass(frozen=True)
class Turn:
    """A question, and what it takes to answer it."""

    question: ChatRequest
    idempotency_key: uuid.UUID | None
    db: Database
    model: LanguageModel
    retrieve: Retriever
    settings: Settings
    owner: str | None = None
    """Whose the session is, should a new one begin; `title` is what it is called then."""
    title: str | None = None
    session_must_exist: bool = False
    """Whether an unknown session is an error, rather than the beginning of a new one."""


async def get_turn(
    request: StateRequest, question: ChatRequest, retrieve: Retrieve, idempotency_key: IdempotencyKey = None
) -> Turn:
    """Return the turn that the request asks for."""
    state = request.state
    require_within_limits(question, state["settings"])
    return Turn(question, idempotency_key, state["database"], state["model"], retrieve, state["settings"])


Asked = Annotated[Turn, Depends(get_turn)]


@router.post("/chat", dependencies=[Depends(within_rate)], responses=ERROR_RESPONSES)
async def chat(turn: Asked, turns: Running) -> ChatResponse:
    """Answer a question about the book.

    Without a `session_id` a new session begins, and the response names it; with one, the answer takes the session's last
    messages into account. With a `selected_text` the answer comes from that text alone.
    """
    return await turns.run(take_turn(turn))


async def take_turn(turn: Turn, *, emit: Emit | None = None) -> ChatResponse:
    """Answer the question and record both; with `emit`, tell of the recorded question and of each piece of the answer.

    When this returns, the answer is in the database. When it raises a ModelError, the question is; when it raises a
    DatabaseError, either may be missing. No connection is held while the model thinks. With an idempotency key the
    recorded answer is returned if there is one; IdempotencyConflictError and TurnInProgressError say why there cannot be.
    """
    question, db, settings = turn.question, turn.db, turn.settings
    request = current_request()
    request.confidential += [question.message, question.selected_text or ""]
    ids = _ids(question, turn.idempotency_key)

    conversation = await _find_conversation(turn, ids)
    request.session_id = conversation.session_id
    asked = MessageBase(
        id=ids.message,
        session_id=conversation.session_id,
        role=MessageRole.user,
        content=question.message,
        selected_text=question.selected_text,
        created_at=_after(conversation.last_message_at),
    )
    if turn.idempotency_key is None:
        return await _answer(turn, asked, conversation, emit)

    seconds = settings.openai_timeout_seconds + CLAIM_MARGIN_SECONDS
    asked.answering_until = _claim_end(seconds)
    try:
        async with asyncio.timeout(seconds) as claim:
            recorded = await _claim(turn, asked, new_session=conversation.is_new)
            if recorded is None:
                return await _answer(turn, asked, conversation, emit, is_recorded=True)
    except (IdempotencyConflictError, TurnInProgressError):
        raise
    except BaseException as error:
        await _release(db, asked)
        if isinstance(error, TimeoutError) and claim.expired():
            raise ModelTimeoutError from error
        raise
    if emit:
        emit(asked)
        emit(DeltaEvent(text=recorded.response))
    return recorded


async def retake_turn(turn: Turn, asked: MessageBase, *, emit: Emit | None = None) -> ChatResponse:
    """Answer a recorded question anew, once all that was said after it is deleted; otherwise as `take_turn`."""
    question = turn.question
    request = current_request()
    request.session_id = asked.session_id
    request.confidential += [question.message, question.selected_text or ""]
    after = tuple_(col(Message.created_at), col(Message.id)) > tuple_(asked.created_at, asked.id)
    # Replies go with their questions: one to an earlier question stays, even if it came late.
    begun_after = and_(col(Message.session_id) == asked.session_id, col(Message.reply_to).is_(None), after)
    await turn.db.execute((delete(Message).where(or_(begun_after, col(Message.reply_to) == asked.id)), {}))
    conversation = await _find_conversation(turn, Ids(asked.session_id, asked.id))
    return await _answer(turn, asked, conversation, emit, is_recorded=True, anew=True)


async def _answer(  # noqa: PLR0913
    turn: Turn,
    asked: MessageBase,
    conversation: "Conversation",
    emit: Emit | None,
    *,
    is_recorded: bool = False,
    anew: bool = False,
) -> ChatResponse:
    """Ask the model and record its reply; a question that is not recorded yet is recorded while the model thinks.

    With `anew` the reply takes the place of one that is recorded already.
    """
    answering = asyncio.create_task(_ask(turn, conversation.history, emit))
    try:
        if not is_recorded:
            with contextlib.suppress(DuplicateKeyError):  # A first try had arrived before its connection was lost.
                await _record_question(turn, asked, new_session=conversation.is_new)
        if emit:
            emit(asked)
        answer, retrieved = await answering
    except BaseException:
        # The question was recorded whatever became of the answer; without it, no answer is wanted.
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
        raise
    return await _record_reply(turn.db, asked, answer, retrieved, anew=anew)


@dataclass(frozen=True)
class Ids:
    """The ids of the rows that a turn writes; those of a turn with an idempotency key come from the key."""

    new_session: uuid.UUID
    message: uuid.UUID


def _ids(question: ChatRequest, idempotency_key: uuid.UUID | None) -> Ids:
    if idempotency_key is None:
        return Ids(uuid.uuid4(), uuid.uuid4())
    # The session that the client named is part of the new one's id: naming another one is another request.
    return Ids(
        new_session=uuid.uuid5(idempotency_key, f"session {(question.session_id or '')!a}"),
        message=uuid.uuid5(idempotency_key, "message"),
    )


def reply_id(message_id: uuid.UUID) -> uuid.UUID:
    """Return the id of the one reply that a message can have."""
    return uuid.uuid5(message_id, "reply")


@dataclass(frozen=True)
class Conversation:
    """A session as the turn finds it."""

    session_id: uuid.UUID
    is_new: bool = True
    history: Sequence[PromptMessage] = ()
    """Its last messages, oldest first, each reply after its question."""
    last_message_at: datetime | None = None


_recent = (
    select(Message)
    .where(col(Message.session_id) == bindparam("session"), col(Message.id) != bindparam("asked"))
    .order_by(col(Message.created_at).desc(), col(Message.id).desc())
    .limit(bindparam("limit"))
    .subquery()
)
# One statement tells an empty session, which gives a row of nulls, from an unknown one, which gives none.
_SESSION_AND_RECENT_MESSAGES = (
    select(_recent.c.id, _recent.c.role, _recent.c.content, _recent.c.created_at, _recent.c.reply_to)
    .select_from(ChatSession)
    .outerjoin(_recent, _recent.c.session_id == col(ChatSession.id))
    .where(col(ChatSession.id) == bindparam("session"))
    .order_by(_recent.c.created_at, _recent.c.id)
)


async def _find_conversation(turn: Turn, ids: Ids) -> Conversation:
    """Return the session with its last messages, or a new one when the id is absent, malformed or not known.

    Raises SessionNotFoundError instead of beginning a new one where the session must exist.
    """
    try:
        session_id = uuid.UUID(turn.question.session_id or "")
    except ValueError:
        return _new_conversation(turn, ids)

    history_limit = 0 if turn.question.selected_text else turn.settings.history_limit
    parameters = {
        "session": session_id,
        "asked": ids.message,
        "limit": max(history_limit, 1),  # The time of the last one is wanted even where no history is.
    }
    rows = await turn.db.execute((_SESSION_AND_RECENT_MESSAGES, parameters))
    if not rows:
        return _new_conversation(turn, ids)
    last_message_at = rows[-1].created_at
    history = _in_turns(rows) if history_limit and last_message_at else ()
    return Conversation(
        session_id,
        is_new=False,
        history=[PromptMessage(role=row.role.value, content=row.content) for row in history],
        last_message_at=last_message_at,
    )


def _new_conversation(turn: Turn, ids: Ids) -> Conversation:
    if turn.session_must_exist:
        raise SessionNotFoundError
    return Conversation(ids.new_session)


def _in_turns(rows: Sequence[Row[Any]]) -> Iterator[Row[Any]]:
    """Yield the rows in their order, but each reply right after its question: questions asked at once interleave."""
    ids = {row.id for row in rows}
    replies = {row.reply_to: row for row in rows if row.reply_to}
    for row in rows:
        if row.reply_to not in ids:
            yield row
        if reply := replies.get(row.id):
            yield reply


_IDENTITY = ("session_id", "content", "selected_text")
"""What makes two questions with one key the same request."""


async def _claim(turn: Turn, asked: MessageBase, *, new_session: bool) -> ChatResponse | None:
    """Record the question and make it ours to answer, or return the answer that it has already.

    Raises IdempotencyConflictError when the key was used for another question, and TurnInProgressError when this one may
    still be being answered. A question whose answer failed, or whose process died, becomes ours.
    """
    db = turn.db
    try:
        await _record_question(turn, asked, new_session=new_session)
    except DuplicateKeyError:
        pass
    else:
        return None

    rows = await db.execute((select(Message).where(col(Message.id).in_([asked.id, reply_id(asked.id)])), {}))
    recorded = {row.id: row for row in rows}
    question, reply = recorded.get(asked.id), recorded.get(reply_id(asked.id))
    if question is None or not all(getattr(question, name) == getattr(asked, name) for name in _IDENTITY):
        raise IdempotencyConflictError
    if reply is not None:
        return ChatResponse(response=reply.content, session_id=reply.session_id, timestamp=reply.created_at)
    if question.answering_until == asked.answering_until:
        return None  # The connection was lost after our own first try had arrived.

    until = col(Message.answering_until)
    take_over = (
        update(Message)
        .where(col(Message.id) == asked.id, or_(until.is_(None), until <= utc_now(), until == asked.answering_until))
        .values(answering_until=asked.answering_until)
        .returning(col(Message.id))
    )
    if not await db.execute((take_over, {})):
        raise TurnInProgressError(retry_after="1")
    return None


def _claim_end(seconds: float) -> datetime:
    """Return until when a claim made now holds; a random part of a second makes it this claim's own."""
    return utc_now() + timedelta(seconds=seconds, microseconds=secrets.randbelow(1_000_000))


async def _release(db: Database, asked: MessageBase) -> None:
    """Let a question whose answer failed be asked again at once."""
    claimed = update(Message).where(col(Message.id) == asked.id, col(Message.answering_until) == asked.answering_until)
    with contextlib.suppress(DatabaseError):  # The claim runs out by itself.
        await db.execute((claimed.values(answering_until=None), {}))


async def _ask(turn: Turn, history: Sequence[PromptMessage], emit: Emit | None) -> tuple[str, Retrieved]:
    """Return the model's answer, from the retrieved passages and the history or from the excerpt alone, and the passages."""
    excerpt = turn.question.selected_text
    async with asyncio.timeout(RETRIEVAL_TIMEOUT_SECONDS):
        passages = () if excerpt else await turn.retrieve(turn.question.message)
    retrieved = Retrieved(passages)
    if passages and emit:
        emit(retrieved)
    prompt = assemble_prompt(
        turn.question.message,
        book_title=turn.settings.book_title,
        excerpt=excerpt,
        passages=passages,
        history=history,
    )
    request = current_request()
    request.confidential += [message["content"] for message in prompt if message["role"] != "system"]
    answer = await turn.model.answer(prompt, emit and (lambda text: emit(DeltaEvent(text=text))))
    request.confidential.append(answer)
    return answer, retrieved


def _after(previous: datetime | None) -> datetime:
    """Return the current time, or the next microsecond after the previous message where the clock stands or goes back."""
    now = utc_now()
    return now if previous is None else max(now, previous + timedelta(microseconds=1))


_BEGIN_SESSION = insert(ChatSession).values(
    id=bindparam("session"),
    created_at=bindparam("now"),
    updated_at=bindparam("now"),
    owner=bindparam("session_owner"),
    title=bindparam("session_title"),
)
_MOVE_SESSION_ON = (
    update(ChatSession).where(col(ChatSession.id) == bindparam("session")).values(updated_at=bindparam("now"))
)
_INSERT_MESSAGE = insert(Message).values({name: bindparam(f"message_{name}") for name in MessageBase.model_fields})


def _insertion(message: MessageBase) -> Statement:
    return _INSERT_MESSAGE, {f"message_{name}": value for name, value in message.model_dump().items()}


async def _record_question(turn: Turn, asked: MessageBase, *, new_session: bool) -> None:
    """Write the reader's message, and begin its session or move it on."""
    session: Statement = _MOVE_SESSION_ON, {"session": asked.session_id, "now": asked.created_at}
    if new_session:
        session = _BEGIN_SESSION, {**session[1], "session_owner": turn.owner, "session_title": turn.title}
    await _write(turn.db, session, _insertion(asked))


async def _record_reply(
    db: Database, asked: MessageBase, answer: str, retrieved: Retrieved, *, anew: bool
) -> ChatResponse:
    """Write the model's answer, and return the one that is recorded: the first, or with `anew` the last."""
    reply = MessageBase(
        id=reply_id(asked.id),
        session_id=asked.session_id,
        role=MessageRole.assistant,
        content=answer,
        created_at=_after(asked.created_at),
        reply_to=asked.id,
        sources=retrieved.sources or None,
    )
    recorded: Any = reply
    try:
        await _write(db, _insertion(reply))
    except DuplicateKeyError:
        of_reply = col(Message.id) == reply.id
        if anew:
            changes = reply.model_dump(include={"content", "created_at", "sources"})
            replace = update(Message).where(of_reply).values(feedback=None, **changes).returning(col(Message.id))
            if not await db.execute((replace, {})):
                raise SessionNotFoundError from None
        else:
            [recorded] = await db.execute((select(Message).where(of_reply), {}))
    return ChatResponse(response=recorded.content, session_id=reply.session_id, timestamp=recorded.created_at)


async def _write(db: Database, *statements: Statement) -> None:
    """Execute the statements; raises SessionNotFoundError if the session, or the question, has been deleted meanwhile."""
    try:
        await db.execute(*statements)
    except MissingReferenceError as error:
        raise SessionNotFoundError from error
