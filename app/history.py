"""A conversation read back, and deleted."""

import uuid
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from sqlalchemy import ColumnElement, Row, delete, select, tuple_
from sqlmodel import col

from app.database import Database
from app.dependencies import Db, ReaderToken, owner_of
from app.errors import ERROR_RESPONSES, SessionNotFoundError
from app.logs import current_request
from app.models import ChatSession, Message, MessageItem, MessagePage

router = APIRouter(prefix="/chat/{session_id}", tags=["history"])

_RESPONSES = {status: ERROR_RESPONSES[status] for status in (400, 404, "4XX", 500)}

# A malformed id is an unknown one, so it is taken as text.
SessionId = Annotated[str, Path(description="The session's id.")]


@router.get("/messages", responses=_RESPONSES)
async def read_messages(
    session_id: SessionId,
    db: Db,
    after: Annotated[uuid.UUID | None, Query(description="The `after` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    reader_token: ReaderToken = None,
) -> MessagePage:
    """Return a conversation's messages, oldest first, a page at a time."""
    session = await find_session(db, session_id, owner_of(reader_token))
    rows, has_more = await load_page(db, Message, col(Message.session_id) == session.id, after=after, limit=limit)
    data = [MessageItem.model_validate(row, from_attributes=True) for row in rows]
    return MessagePage(data=data, has_more=has_more, after=data[-1].id if data else after)


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


def parse_id(text: str) -> uuid.UUID:
    """Return an id; a malformed one is an unknown one, so it raises SessionNotFoundError."""
    try:
        return uuid.UUID(text)
    except ValueError:
        raise SessionNotFoundError from None


async def load_page(  # noqa: PLR0913
    db: Database,
    table: type[Message | ChatSession],
    where: ColumnElement[bool],
    *,
    after: uuid.UUID | None,
    limit: int,
    newest_first: bool = False,
) -> tuple[Sequence[Row[Any]], bool]:
    """Return the table's rows that follow the one of the id `after`, in the order of their making, and whether more do."""
    place = tuple_(col(table.created_at), col(table.id))
    page = [where]
    if after is not None:
        cursor = select(col(table.created_at), col(table.id)).where(where, col(table.id) == after).scalar_subquery()
        page.append(place < cursor if newest_first else place > cursor)
    order = [column.desc() if newest_first else column.asc() for column in place]
    rows = await db.execute((select(table).where(*page).order_by(*order).limit(limit + 1), {}))
    return rows[:limit], len(rows) > limit
