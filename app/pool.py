"""PostgreSQL's connections: how they are opened and waited for, and which ones are kept."""

import asyncio
import logging
import re
import socket
import ssl
import time
from typing import Any, override
from weakref import WeakSet

import asyncpg
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import ConnectionPoolEntry, Pool
from sqlalchemy.util import greenlet_spawn

from app.dsn import UNCACHED

logger = logging.getLogger(__name__)

WAKE_SECONDS = 5.0
"""How long a database that refuses connections is waited for, from its first refusal on."""
REFUSAL_SECONDS = 0.2
"""How long nobody tries again after a refusal."""
WRONG_PASSWORD_SECONDS = 1.0
"""How long nobody tries again with a password that was refused: some hosts lock out those who try often."""
SPARE_SECONDS = 3.0
"""How long a connection is kept unused beside another: less than a process without any waits for one."""
GIVE_UP_SECONDS = 2.0
"""How long a process that can have no more connections keeps those it has, before it leaves one to others."""
CLOSE_SECONDS = 1.0
"""How long the server may take to say goodbye."""

_IS_UNCACHED = "is_uncached"


class RefusedError(Exception):
    """No new connection can be had, for whatever reason, but others are open."""


class ConnectionPool(Pool):
    """Keeps what is open and unused; the last one returned is taken first, so spare connections are closed after a while.

    It bounds nothing and nobody waits in it. Unlike SQLAlchemy's queue it keeps no place for a connection that was closed:
    whoever got that place would have to open a new one while others are there to be used.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unused: list[tuple[float, ConnectionPoolEntry]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None

    @override
    def recreate(self) -> "ConnectionPool":
        return type(self)(
            self._creator,
            recycle=self._recycle,
            echo=self.echo,
            logging_name=self._orig_logging_name,
            reset_on_return=self._reset_on_return,
            _dispatch=self.dispatch,
            dialect=self._dialect,
        )

    @override
    def dispose(self) -> None:
        if self._timer:
            self._timer.cancel()
        while self._unused:
            self._unused.pop()[1].close()

    @override
    def _do_get(self) -> ConnectionPoolEntry:
        return self._unused.pop()[1] if self._unused else self._create_connection()

    @override
    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if record.dbapi_connection is not None:
            self._unused.append((time.monotonic(), record))
            self._close_spares_later()

    def _close_spares_later(self) -> None:
        if len(self._unused) > 1 and self._timer is None:
            seconds = self._unused[0][0] + SPARE_SECONDS - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(seconds, self._close_spares)

    def _close_spares(self) -> None:
        self._timer = None
        unused_since = time.monotonic() - SPARE_SECONDS
        spares = [record for returned_at, record in self._unused[:-1] if returned_at <= unused_since]
        del self._unused[: len(spares)]
        if spares:
            self._closing = asyncio.create_task(_close(spares))
        self._close_spares_later()


async def _close(records: list[ConnectionPoolEntry]) -> None:
    for record in records:
        await greenlet_spawn(record.invalidate)


class Connector:
    """Opens PostgreSQL's connections, waits for a database that is starting or waking, and says which ones are of use.

    The wait is counted from the first refusal: once it is over, refusals are passed on at once until a connection
    succeeds, so that requests do not queue up behind a database that is gone. A process that has several connections and can have
    no more leaves one to other processes from time to time, since one of them may have none.
    """

    def __init__(self, *, limit: int = 1) -> None:
        self._limit = limit
        self._away_since: float | None = None
        self._refused_at = 0.0
        self._opened = WeakSet[asyncpg.Connection]()
        self._pooler_found = False
        self._is_full = False
        self._opened_at = self._gave_up_at = 0.0

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        """Connect as asyncpg does; raises RefusedError if a connection that is open is worth waiting for instead."""
        if time.monotonic() - self._refused_at > WAKE_SECONDS + REFUSAL_SECONDS:
            # Nobody has connected since: the database may have woken up and fallen asleep again.
            self._away_since = None
        if self._open_count() and time.monotonic() - self._gave_up_at < 2 * REFUSAL_SECONDS:
            raise RefusedError  # A connection has just been left to others, who may take it first.
        while True:
            try:
                connection = await asyncpg.connect(*args, **kwargs)
            except (OSError, asyncpg.PostgresError) as error:
                if self._open_count():
                    self._is_full = True
                    raise RefusedError from error
                if not is_refusal(error):
                    raise
                self._refused_at = time.monotonic()
                self._away_since = self._away_since or self._refused_at
                if self._refused_at - self._away_since >= WAKE_SECONDS:
                    raise
                is_wrong_password = isinstance(error, asyncpg.InvalidPasswordError)
                await asyncio.sleep(WRONG_PASSWORD_SECONDS if is_wrong_password else REFUSAL_SECONDS)
            else:
                self._away_since = None
                self._opened_at = time.monotonic()
                self._opened.add(connection)
                return connection

    def _open_count(self) -> int:
        return sum(not connection.is_closed() for connection in self._opened)

    def give_up(self, _dbapi_connection: object, record: ConnectionPoolEntry) -> None:
        """Close the connection that is about to be returned to the pool, if it is to be left to others."""
        if time.monotonic() - max(self._opened_at, self._gave_up_at) < GIVE_UP_SECONDS:
            return
        open_count = self._open_count()
        if open_count > 1 and (self._is_full or open_count == self._limit):
            self._is_full = False
            self._gave_up_at = time.monotonic()
            record.invalidate()

    async def close(self) -> None:
        """Close every connection, even if the server or the network does not answer any more."""
        closing = [connection.close(timeout=CLOSE_SECONDS) for connection in self._opened]
        await asyncio.gather(*closing, return_exceptions=True)

    def expect_pooler(self) -> None:
        """From now on, use no connection that caches prepared statements: a pooler in transaction mode loses them."""
        if not self._pooler_found:
            self._pooler_found = True
            logger.warning("database.pooler_found", extra={"fields": {"set": "DATABASE_POOLED=true"}})

    def prepare(self, _dialect: object, record: Any, _args: object, kwargs: dict[str, Any]) -> None:
        """Choose whether the connection that is about to be opened has caches."""
        if self._pooler_found:
            kwargs.update(prepared_statement_name_func=None, **UNCACHED)
            record.info[_IS_UNCACHED] = True

    def replace_if_useless(self, dbapi_connection: Any, record: Any, _proxy: object) -> None:
        """Have the pool replace a connection before it is used; asking costs no round trip."""
        closed_while_idle = dbapi_connection.driver_connection.is_closed()
        if closed_while_idle or (self._pooler_found and _IS_UNCACHED not in record.info):
            raise DisconnectionError


# A new password takes some seconds to reach every part of a hosted database, and is refused until then.
_PASSING_CODES = ("08000", "08001", "08003", "08004", "08006", "28P01", "53", "57P")
_FULL = re.compile("no more connections|too many|max.? ?clients?|check.?out|login has been failing", re.IGNORECASE)


def is_refusal(error: BaseException) -> bool:
    """Whether connecting failed for a reason that passes, or may: the database starts or sleeps, or does not know the password yet."""
    if isinstance(error, asyncpg.PostgresError):
        return str(error.sqlstate).startswith(_PASSING_CODES) or is_full(error)
    return not isinstance(error, (TimeoutError, socket.gaierror, ssl.SSLCertVerificationError))


def is_full(error: BaseException) -> bool:
    """Whether a pooler says that it has no connection for us now; its SQLSTATEs are those of permanent errors too."""
    return bool(_FULL.search(str(error)))
