"""A reader's own conversations, those that began with the reader's token: listed, exported and deleted together."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from sqlalchemy import Row, delete
from sqlmodel import col

from app.database import Database
from app.dependencies import Db, RequiredReaderToken, owner_of
from app.errors import ERROR_RESPONSES
from app.history import as_item, load_messages, load_sessions
from app.models import ChatSession, Export, PageQuery, SessionItem, SessionPage

router = APIRouter(prefix="/chat", tags=["history"])

_RESPONSES = {status: ERROR_RESPONSES[status] for status in (400, "4XX", 500)}
_PAGE = 50


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
    sessions = _sessions(db, str(owner_of(reader_token)))
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


async def _sessions(db: Database, owner: str) -> AsyncIterator[Row[Any]]:
    after, has_more = None, True
    while has_more:
        rows, has_more = await load_sessions(db, owner, after=after, limit=_PAGE, order="asc")
        for row in rows:
            yield row
            after = row.id


async def _as_json(db: Database, first: Row[Any] | None, others: AsyncIterator[Row[Any]]) -> AsyncIterator[str]:
    """Yield the file piece by piece, so that a long one need not fit into memory."""
    yield '{"sessions": ['
    if first is not None:
        async for piece in _session_as_json(db, first):
            yield piece
        async for session in others:
            yield ",\n"
            async for piece in _session_as_json(db, session):
                yield piece
    yield "]}\n"


async def _session_as_json(db: Database, session: Row[Any]) -> AsyncIterator[str]:
    item = SessionItem.model_validate(session, from_attributes=True).model_dump(mode="json")
    yield json.dumps(item, ensure_ascii=False)[:-1] + ', "messages": ['
    after, has_more, separator = None, True, ""
    while has_more:
        rows, has_more = await load_messages(db, session.id, after=after, limit=_PAGE, order="asc")
        for row in rows:
            yield separator + as_item(row).model_dump_json(exclude_unset=True)
            after, separator = row.id, ",\n"
    yield "]}"
