"""A reader's own conversations, those that began with the reader's token: listed, exported and deleted together."""

import json
import uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from sqlalchemy import Row, delete, func, select
from sqlalchemy.orm import aliased
from sqlmodel import col

from app.database import Database
from app.dependencies import Db, RequiredReaderToken, owner_of
from app.errors import ERROR_RESPONSES, DatabaseError, log
from app.history import as_item, is_answering, load_sessions
from app.models import ChatSession, Export, Message, PageQuery, SessionItem, SessionPage

router = APIRouter(prefix="/chat", tags=["history"])

_RESPONSES = {status: ERROR_RESPONSES[status] for status in (400, "4XX", 500)}
PAGE = 50
"""How many rows the export reads at once."""


@router.get("", responses=_RESPONSES)
async def read_sessions(db: Db, page: Annotated[PageQuery, Query()], reader_token: RequiredReaderToken) -> SessionPage:
    """List the reader's conversations in the order in which they began, a page at a time."""
    rows, has_more = await load_sessions(
        db, str(owner_of(reader_token)), after=page.after, limit=page.limit, order=page.order
    )
    data = [SessionItem.model_validate(row, from_attributes=True) for row in rows]
    return SessionPage(data=data, has_more=has_more, after=data[-1].id if data else page.after)


@router.get("/export", response_model=Export, responses=_RESPONSES)
async def export_sessions(db: Db, reader_token: RequiredReaderToken) -> StreamingResponse:
    """Return all that is kept of the reader: every conversation with its messages, the oldest first, as a JSON file."""
    sessions = own_sessions(db, str(owner_of(reader_token)))
    first = await anext(sessions, None)  # What fails before the file begins has a status of its own.
    return StreamingResponse(
        _as_json(db, first, sessions),
        media_type="application/json",
        headers={"Content-Disposition": 'attachment; filename="conversations.json"'},
    )


@router.delete("", status_code=204, responses=_RESPONSES)
async def delete_sessions(db: Db, reader_token: RequiredReaderToken) -> None:
    """Delete all of the reader's conversations with all their messages."""
    await db.execute((delete(ChatSession).where(col(ChatSession.owner) == owner_of(reader_token)), {}))


def own_sessions(db: Database, owner: str) -> AsyncIterator[Row[Any]]:
    """Yield the reader's sessions in the order in which they began."""
    sessions = select(ChatSession).where(col(ChatSession.owner) == owner)
    return db.walk(sessions, col(ChatSession.created_at), col(ChatSession.id), batch=PAGE)


def messages_of(db: Database, session_id: uuid.UUID) -> AsyncIterator[Row[Any]]:
    """Yield the session's messages, each answer after its question."""
    root = aliased(Message)
    messages = (
        select(Message, is_answering())
        .join(root, col(root.id) == func.coalesce(col(Message.reply_to), col(Message.id)))
        .where(col(Message.session_id) == session_id)
    )
    turn = (col(root.created_at), col(root.id))
    in_turn = (col(Message.reply_to).is_not(None), col(Message.created_at), col(Message.id))
    return db.walk(messages, *turn, *in_turn, batch=PAGE)


async def _as_json(db: Database, first: Row[Any] | None, others: AsyncIterator[Row[Any]]) -> AsyncIterator[str]:
    """Yield the file piece by piece, so that a long one need not fit into memory. If something fails, it breaks off."""
    try:
        yield '{"sessions": ['
        if first is not None:
            async for piece in _session_as_json(db, first):
                yield piece
            async for session in others:
                yield ",\n"
                async for piece in _session_as_json(db, session):
                    yield piece
        yield "]}\n"
    except DatabaseError as error:
        log(error)


async def _session_as_json(db: Database, session: Row[Any]) -> AsyncIterator[str]:
    item = SessionItem.model_validate(session, from_attributes=True).model_dump(mode="json")
    yield json.dumps(item, ensure_ascii=False)[:-1] + ', "messages": ['
    separator = ""
    async for row in messages_of(db, session.id):
        yield separator + as_item(row).model_dump_json(exclude_unset=True)
        separator = ",\n"
    yield "]}"
