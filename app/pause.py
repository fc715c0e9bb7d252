"""The owner's pause: while it lasts, no question goes to the model."""

import asyncio
import logging
import math
import time
from contextvars import Context
from typing import Any

from sqlalchemy import Row, bindparam, delete, inspect, select
from sqlalchemy.dialects import postgresql
from sqlmodel import col

from app.database import Database
from app.errors import DatabaseError, MissingTableError, PausedError
from app.models import Pause, utc_now
from app.turns import finish_with_request

logger = logging.getLogger(__name__)

READING_SECONDS = 5.0
"""How old what is known of the pause may be when a question comes."""

_WAIT_SECONDS = 1.0
"""How long a question waits to hear of a pause."""

_THE_ONE = 1
"""There is at most one pause."""

_READ = select(col(Pause.message), col(Pause.began_at)).where(col(Pause.id) == _THE_ONE)
# PostgreSQL's insert serves SQLite too: SQLite's dialect has the same words for ON CONFLICT.
_UPSERT = postgresql.insert(Pause).values(
    id=_THE_ONE,
    message=bindparam("words"),
    began_at=bindparam("now", type_=inspect(Pause).columns.began_at.type),
)
_BEGIN = _UPSERT.on_conflict_do_update(index_elements=["id"], set_={"message": _UPSERT.excluded.message})
_END = delete(Pause).where(col(Pause.id) == _THE_ONE).returning(col(Pause.id))


class Pauses:
    """Knows whether the owner has paused the service, from the database.

    It is read when a question comes, at most every five seconds, and beside the question's own reading: an idle service does not
    keep its database awake. If it cannot be read, the service goes on as before.
    """

    def __init__(self, database: Database) -> None:
        self._db = database
        self._pause: Row[Any] | None = None
        self._read_at = -math.inf
        self._reading: asyncio.Task[None] | None = None

    async def expect(self) -> None:
        """Begin to read if what is known is old; raises PausedError if the service is known to be paused."""
        if self._reading is None and time.monotonic() - self._read_at > READING_SECONDS:
            # It is not the request's own work, and not in its record.
            self._reading = asyncio.create_task(self._read(), context=Context())
            finish_with_request(self._reading)
        if self._pause:
            await self.check()

    async def check(self) -> None:
        """Raise PausedError if the service is paused; waits for what is being read."""
        if self._reading:
            await asyncio.wait([self._reading], timeout=_WAIT_SECONDS)
        if self._pause:
            raise PausedError(self._pause.message)

    async def _read(self) -> None:
        before = self._pause
        try:
            self._pause = await read_pause(self._db)
        except MissingTableError:
            pass  # Readiness says so.
        except DatabaseError as error:
            logger.warning("pause.unread", exc_info=error)
        finally:
            self._read_at = time.monotonic()
            self._reading = None
        if (before is None) != (self._pause is None):
            logger.warning("service.paused" if self._pause else "service.resumed")


async def read_pause(db: Database) -> Row[Any] | None:
    """Return the pause's `message` and `began_at`, None while the service is not paused; raises DatabaseError."""
    return next(iter(await db.execute((_READ, {}))), None)


async def begin_pause(db: Database, message: str | None) -> None:
    """Pause the service, or change the words of its pause; without any, a message of our own is sent."""
    await db.execute((_BEGIN, {"words": message, "now": utc_now()}))


async def end_pause(db: Database) -> bool:
    """Let questions be answered again; returns whether the service was paused."""
    return bool(await db.execute((_END, {})))
