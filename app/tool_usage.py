"""How often readers' assistants call the tools, for the report."""

import asyncio
import logging
from collections import Counter
from contextvars import Context
from datetime import date

from sqlalchemy import bindparam
from sqlalchemy.dialects import postgresql
from sqlmodel import col

from app.database import Database
from app.errors import DatabaseError
from app.models import ToolUsage, utc_now
from app.turns import finish_with_request

logger = logging.getLogger(__name__)

# PostgreSQL's insert serves SQLite too: SQLite's dialect has the same words for ON CONFLICT.
_UPSERT = postgresql.insert(ToolUsage).values(
    day=bindparam("usage_day"), tool=bindparam("usage_tool"), calls=bindparam("usage_calls")
)
_RECORD = _UPSERT.on_conflict_do_update(
    index_elements=["day", "tool"], set_={"calls": col(ToolUsage.calls) + _UPSERT.excluded.calls}
)


class ToolCounter:
    """Counts the calls of each day (UTC), and writes the counts beside the calls: none waits for that.

    The calls that come while counts are being written are written together.
    """

    def __init__(self, database: Database) -> None:
        self._db = database
        self._calls = Counter[tuple[date, str]]()
        self._recording: asyncio.Task[None] | None = None

    def count(self, tool: str) -> None:
        """Count one call."""
        self._calls[utc_now().date(), tool] += 1
        if self._recording is None:
            # It is not the request's own work, and not in its record.
            self._recording = asyncio.create_task(self._record(), context=Context())
        finish_with_request(self._recording)

    async def _record(self) -> None:
        calls = self._calls
        try:
            while self._calls:
                calls, self._calls = self._calls, Counter()
                rows = [{"usage_day": day, "usage_tool": tool, "usage_calls": n} for (day, tool), n in calls.items()]
                await self._db.execute(*((_RECORD, row) for row in rows))
        except DatabaseError as error:
            self._calls.update(calls)  # The next call writes them.
            logger.warning("mcp.uncounted", exc_info=error)
        finally:
            self._recording = None
