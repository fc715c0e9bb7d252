"""How many tokens a day may cost, for all processes together."""

import asyncio
import logging
import math
import time
import uuid
from contextvars import Context
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import bindparam, func, select
from sqlalchemy.dialects import postgresql
from sqlmodel import col

from app.config import Settings
from app.database import Database
from app.errors import BudgetExhaustedError, DatabaseError
from app.models import TokenUsage, utc_now
from app.turns import finish_with_request

logger = logging.getLogger(__name__)

_REFRESH_SECONDS = 10.0
"""How old what is known of the other processes may be when a question comes."""

_FIRST_SECONDS = 1.0
"""How long the first turn of a process, or of a day, waits to hear of the others."""

# PostgreSQL's insert serves SQLite too: SQLite's dialect has the same words for ON CONFLICT.
_UPSERT = postgresql.insert(TokenUsage).values(
    day=bindparam("usage_day"), process=bindparam("usage_process"), tokens=bindparam("usage_tokens")
)
_RECORD = _UPSERT.on_conflict_do_update(index_elements=["day", "process"], set_={"tokens": _UPSERT.excluded.tokens})
_SPENT_BY_OTHERS = select(func.coalesce(func.sum(col(TokenUsage.tokens)), 0).label("tokens")).where(
    col(TokenUsage.day) == bindparam("day"), col(TokenUsage.process) != bindparam("process")
)


class Budget:
    """Counts what the answers of a day (UTC) cost, and refuses questions once `DAILY_TOKEN_BUDGET` is spent.

    Each process adds up its own tokens, writes the sum beside its turns, and learns then what the others have spent. No turn
    waits for that, except for the first one of a process and of a day. So the budget can be overshot by the turns that are
    under way, and by one turn for each process that has not heard of the others for ten seconds.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._limit = settings.daily_token_budget
        self._db = database
        self._process = uuid.uuid4()
        self._day: date | None = None
        self._spent = self._spent_by_others = 0
        self._heard_at = -math.inf
        self._recording: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """Raise BudgetExhaustedError if the day's tokens are spent."""
        if self._limit is None:
            return
        self._turn_page()
        if time.monotonic() - self._heard_at > _REFRESH_SECONDS:
            self._record()
            if self._heard_at == -math.inf and self._recording:
                await asyncio.wait([self._recording], timeout=_FIRST_SECONDS)
        if self._spent + self._spent_by_others >= self._limit:
            tomorrow = datetime.combine(utc_now().date() + timedelta(days=1), datetime.min.time(), UTC)
            raise BudgetExhaustedError(retry_after=str(math.ceil((tomorrow - utc_now()).total_seconds())))

    def spend(self, tokens: int) -> None:
        """Count the tokens of an answer."""
        if self._limit is None:
            return
        self._turn_page()
        self._spent += tokens
        self._record()

    def _turn_page(self) -> None:
        today = utc_now().date()
        if self._day != today:
            self._day, self._spent, self._spent_by_others, self._heard_at = today, 0, 0, -math.inf

    def _record(self) -> None:
        if self._recording is None:
            # It is not the request's own work, and not in its record.
            self._recording = asyncio.create_task(self._exchange(), context=Context())
            finish_with_request(self._recording)

    async def _exchange(self) -> None:
        """Write what this process has spent, and read what the others have."""
        try:
            while True:
                day, spent, is_first = self._day, self._spent, self._heard_at == -math.inf
                others = {"day": day, "process": self._process}
                own = {"usage_day": day, "usage_process": self._process, "usage_tokens": spent}
                recording = [] if is_first and not spent else [(_RECORD, own)]
                [row] = await self._db.execute(*recording, (_SPENT_BY_OTHERS, others))
                if day == self._day:
                    self._spent_by_others, self._heard_at = row.tokens, time.monotonic()
                if (day, spent) == (self._day, self._spent):  # Nothing was spent meanwhile.
                    return
        except DatabaseError as error:
            self._heard_at = time.monotonic()
            logger.warning("budget.unrecorded", exc_info=error)
        finally:
            self._recording = None
