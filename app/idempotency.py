"""An idempotency key's claim on its question: of all requests with one key, one at a time answers the question.

The id of the question is derived from the key, so the primary key gives the question one row. The request that writes the row,
or that takes over a claim that has run out, may answer. That a question has at most one reply is guaranteed in `conversations.py`.
"""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, func, inspect, or_, select, update
from sqlmodel import col

from app.broadcast import Identity
from app.conversations import Conversation, record_question, reply_id
from app.database import Database
from app.errors import (
    DatabaseError,
    DuplicateKeyError,
    IdempotencyConflictError,
    ModelError,
    TurnInProgressError,
)
from app.models import TOKEN_COUNTS, ChatRequest, Message, MessageBase, TimeInDatabase, utc_now

GIVING_UP_SECONDS = 10.0
"""How long the end of a claim may take; the claim runs out by itself too."""

_COUNTS = {name: inspect(Message).columns[name] for name in TOKEN_COUNTS}


def identity_of(request: ChatRequest, owner: str | None, key: uuid.UUID | None) -> Identity | None:
    """Return what a repetition of the request has in common with it; None without a key."""
    return Identity(key, owner, request.session_id, request.message, request.selected_text) if key else None


def question_id(key: uuid.UUID | None) -> uuid.UUID:
    """Return the id of the question with this key, or a random one."""
    return uuid.uuid5(key, "message") if key else uuid.uuid4()


def new_session_id(identity: Identity | None, asked_at: datetime) -> uuid.UUID:
    """Return the id of the session that a question begins: a random one, or with a key one that tells of its request.

    So whoever repeats the request finds the session again, by the time of the recorded question, and another request does not.
    A session that is begun anew after it was deleted has another id.
    """
    if identity is None:
        return uuid.uuid4()
    return uuid.uuid5(identity.key, ascii([*identity[1:], asked_at.isoformat()]))


@dataclass(frozen=True)
class Claim:
    """What a request with a key finds: the question is its own to answer, or it has been answered."""

    recorded_reply: Row[Any] | None = None


@asynccontextmanager
async def claim_question(
    db: Database, question: MessageBase, conversation: Conversation, identity: Identity, *, seconds: float
) -> AsyncIterator[Claim]:
    """Record the question and hold its claim for the block, unless its reply is recorded already.

    A question that was recorded before keeps its time, and its session, even if the one that the client named is gone by now.
    If the block fails, the claim is given up and the question can be asked again at once. If the process dies, the claim runs
    out after `seconds`.

    Raises IdempotencyConflictError if the key belongs to another request, and TurnInProgressError while another request answers
    this question.
    """
    mark_as_claimed(question, seconds=seconds)
    try:
        yield await _claim(db, question, conversation, identity, seconds=seconds)
    except (IdempotencyConflictError, TurnInProgressError):
        raise
    except BaseException as error:
        await give_up(db, question, error)
        raise


def mark_as_claimed(question: MessageBase, *, seconds: float) -> None:
    """Give a question that is not written yet a claim of its own; whoever reads it then knows that it is being answered."""
    question.claim_id = uuid.uuid4()
    question.answering_until = utc_now() + timedelta(seconds=seconds)


async def _claim(
    db: Database, question: MessageBase, conversation: Conversation, identity: Identity, *, seconds: float
) -> Claim:
    try:
        await record_question(db, question, conversation)
    except DuplicateKeyError:
        pass
    else:
        return Claim()

    found = select(Message).where(col(Message.id).in_([question.id, reply_id(question.id)]))
    recorded = {row.id: row for row in await db.execute((found, {}))}
    asked = recorded.get(question.id)
    if asked is None:  # It was deleted just now.
        raise TurnInProgressError(retry_after="1")
    if not _is_same_request(asked, question, identity):
        raise IdempotencyConflictError
    question.session_id, question.created_at = asked.session_id, asked.created_at
    if reply := recorded.get(reply_id(question.id)):
        return Claim(recorded_reply=reply)

    # The claim can be ours already: the first try arrived, and then its connection was lost.
    is_free = or_(
        col(Message.answering_until).is_(None),
        col(Message.answering_until) <= TimeInDatabase(),
        col(Message.claim_id) == question.claim_id,
    )
    taken_over = (
        update(Message)
        .where(col(Message.id) == question.id, is_free)
        .values(claim_id=question.claim_id, answering_until=TimeInDatabase(seconds))
        .returning(col(Message.id))
    )
    if not await db.execute((taken_over, {})):
        raise TurnInProgressError(retry_after="1")
    return Claim()


async def take_over(db: Database, question: MessageBase) -> None:
    """Claim a recorded question for this request, whoever answers it now; its key can be used again at once."""
    question.claim_id = uuid.uuid4()
    taken = (
        update(Message).where(col(Message.id) == question.id).values(claim_id=question.claim_id, answering_until=None)
    )
    await db.execute((taken, {}))


def _is_same_request(asked: Row[Any], question: MessageBase, identity: Identity) -> bool:
    """Whether the recorded question was asked by this request: in the session that it names, or in the one that it began."""
    # Releases up to 0.1.0 derived the session's id without the time.
    without_time = uuid.uuid5(identity.key, f"session {(identity.session_id or '')!a}{identity.owner or ''}")
    sessions = {question.session_id, new_session_id(identity, asked.created_at), without_time}
    return asked.session_id in sessions and (asked.content, asked.selected_text) == (
        question.content,
        question.selected_text,
    )


async def give_up(db: Database, question: MessageBase, error: BaseException) -> None:
    """End the claim, if it is still ours, and record what the failed answer has cost."""
    usage = error.usage if isinstance(error, ModelError) else {}
    counts = {name: func.coalesce(_COUNTS[name], 0) + count for name, count in usage.items()}
    ours = update(Message).where(col(Message.id) == question.id, col(Message.claim_id) == question.claim_id)
    with contextlib.suppress(DatabaseError, TimeoutError):  # The claim runs out by itself.
        async with asyncio.timeout(GIVING_UP_SECONDS):
            await db.execute((ours.values(claim_id=None, answering_until=None, **counts), {}))
