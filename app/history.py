"""A conversation read back and deleted, and its answers rated."""

import uuid
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, dropwhile
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from sqlalchemy import Label, Row, and_, delete, func, or_, select, tuple_
from sqlalchemy.orm import aliased
from sqlmodel import col

from app.conversations import rate_answer
from app.database import Database
from app.dependencies import Db, ReaderToken, owner_of
from app.errors import ERROR_RESPONSES, AnswerNotFoundError, ChatError, SessionNotFoundError
from app.logs import current_request, keep_out_of_log
from app.models import (
    ChatSession,
    Feedback,
    Message,
    MessageItem,
    MessagePage,
    MessageRole,
    Order,
    PageQuery,
    TimeInDatabase,
    read_sources,
)

router = APIRouter(prefix="/chat/{session_id}", tags=["history"])

PAGE_CHARS = 250_000
"""How much text a page may hold: clients that do not read their pages leave them to the server's memory."""

_RESPONSES = {status: ERROR_RESPONSES[status] for status in (400, 404, "4XX", 500)}

# A malformed id is an unknown one, so it is taken as text.
SessionId = Annotated[str, Path(description="The session's id.")]


@router.get("/messages", responses=_RESPONSES, response_model_exclude_unset=True)
async def read_messages(
    session_id: SessionId,
    db: Db,
    page: Annotated[PageQuery, Query()],
    reader_token: ReaderToken = None,
) -> MessagePage:
    """Return a conversation's messages, every answer right after its question, a page at a time."""
    session = await find_session(db, session_id, owner_of(reader_token))
    rows, has_more = await load_messages(db, session.id, after=page.after, limit=page.limit, order=page.order)
    data = [as_item(row) for row in rows]
    return MessagePage(data=data, has_more=has_more, after=data[-1].id if data else page.after)


def as_item(row: Row[Any]) -> MessageItem:
    """Return a message as clients get it."""
    item = MessageItem(
        id=row.id, role=row.role, content=row.content, selected_text=row.selected_text, created_at=row.created_at
    )
    # What is not set is absent.
    if row.role is MessageRole.assistant:
        item.sources = read_sources(row.sources)
    if row.role is MessageRole.assistant and row.feedback:
        comment = {"comment": row.feedback_comment} if row.feedback_comment else {}
        item.feedback = Feedback(rating=row.feedback, **comment)
    if row.truncated:
        item.truncated = True
    if row.is_answering:
        item.answering = True
    return item


@router.put("/messages/{message_id}/feedback", status_code=204, responses={**_RESPONSES, 413: ERROR_RESPONSES[413]})
async def rate(
    session_id: SessionId,
    message_id: Annotated[str, Path(description="The answer's id.")],
    feedback: Feedback,
    db: Db,
    reader_token: ReaderToken = None,
) -> None:
    """Record what the reader thinks of an answer, in place of what there was before."""
    keep_out_of_log(feedback.comment)
    session = await find_session(db, session_id, owner_of(reader_token))
    await rate_answer(db, session.id, parse_id(message_id, unknown=AnswerNotFoundError), feedback)


@router.delete("", status_code=204, responses=_RESPONSES)
async def delete_session(session_id: SessionId, db: Db, reader_token: ReaderToken = None) -> None:
    """Delete a conversation with all its messages."""
    session = await find_session(db, session_id, owner_of(reader_token))
    await db.execute((delete(ChatSession).where(col(ChatSession.id) == session.id), {}))


async def find_session(db: Database, session_id: str, owner: str | None) -> Row[Any]:
    """Return the session's row, and have the request's records name it.

    Raises SessionNotFoundError if the id is malformed or unknown, or the session another reader's.
    """
    known_id = parse_id(session_id)
    current_request().session_id = known_id
    rows = await db.execute((select(ChatSession).where(col(ChatSession.id) == known_id), {}))
    if not rows or rows[0].owner not in {None, owner}:
        raise SessionNotFoundError
    return rows[0]


def parse_id(text: str, *, unknown: type[ChatError] = SessionNotFoundError) -> uuid.UUID:
    """Return an id; a malformed one is an unknown one, so it raises the error of those."""
    try:
        return uuid.UUID(text)
    except ValueError:
        raise unknown from None


async def load_messages(
    db: Database, session_id: uuid.UUID, *, after: uuid.UUID | None, limit: int, order: Order
) -> tuple[Sequence[Row[Any]], bool]:
    """Return the session's messages that follow the one with the id `after`, and whether more follow.

    There are `limit` of them at most, and fewer if they are long: a page has PAGE_CHARS, or one message. Every reply stands
    right after its question, or right before it with the newest first, however late it was recorded. An `after` that is not in
    the session is followed by nothing. A row's `is_answering` tells of a question whose reply is on its way.
    """
    # A page is cut from whole turns. It begins with the turn of `after`, whose answer may be still to come.
    root, cursor = aliased(Message), aliased(Message)
    turns = select(col(root.id), col(root.created_at)).where(
        col(root.session_id) == session_id, col(root.reply_to).is_(None)
    )
    if after is not None:
        known = select(func.coalesce(col(cursor.reply_to), col(cursor.id))).where(
            col(cursor.session_id) == session_id, col(cursor.id) == after
        )
        begin = select(*_place(Message)).where(col(Message.id) == known.scalar_subquery()).scalar_subquery()
        place = tuple_(*_place(root))
        turns = turns.where(place >= begin if order == "asc" else place <= begin)
    page = turns.order_by(*_in_order(_place(root), order)).limit(limit + 2).subquery()
    in_turns = [page.c.created_at, page.c.id, col(Message.reply_to).is_not(None), *_place(Message)]
    messages = (
        select(Message, is_answering())
        .join(page, or_(col(Message.id) == page.c.id, col(Message.reply_to) == page.c.id))
        .order_by(*_in_order(in_turns, order))
    )
    rows = await db.execute((messages, {}))
    if after is not None:
        rows = list(dropwhile(lambda row: row.id != after, rows))[1:]
    page_rows = _within_page(rows[:limit])
    return page_rows, len(rows) > len(page_rows)


def is_answering() -> Label[bool]:
    """Return the column `is_answering` that `as_item` needs: whether a question's reply is on its way."""
    reply = aliased(Message)
    is_open = ~select(reply).where(col(reply.reply_to) == col(Message.id)).exists()
    return and_(col(Message.answering_until) > TimeInDatabase(), is_open).label("is_answering")


def _within_page(rows: Sequence[Row[Any]]) -> Sequence[Row[Any]]:
    """Return as many of the rows as fit into a page, at least one."""
    sizes = accumulate(len(row.content) + len(row.selected_text or "") for row in rows)
    return rows[: max(1, bisect_right(list(sizes), PAGE_CHARS))]


async def load_sessions(
    db: Database, owner: str, *, after: uuid.UUID | None, limit: int, order: Order
) -> tuple[Sequence[Row[Any]], bool]:
    """Return the reader's sessions that follow the one with the id `after`, in the order of their making, and whether more do."""
    own, place = col(ChatSession.owner) == owner, tuple_(*_place(ChatSession))
    page = select(ChatSession).where(own)
    if after is not None:
        begin = select(*_place(ChatSession)).where(own, col(ChatSession.id) == after).scalar_subquery()
        page = page.where(place > begin if order == "asc" else place < begin)
    rows = await db.execute((page.order_by(*_in_order(_place(ChatSession), order)).limit(limit + 1), {}))
    return rows[:limit], len(rows) > limit


def _place(table: Any) -> list[Any]:
    """Return what orders rows in time; the id decides between equal times."""
    return [table.created_at, table.id]


def _in_order(columns: Sequence[Any], order: Order) -> list[Any]:
    return [column.asc() if order == "asc" else column.desc() for column in columns]
