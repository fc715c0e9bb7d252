"""The database: from a connection string to an engine, and what its failures mean to us."""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import URL, Connection, Engine, Executable, Row, UpdateBase, event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlalchemy.util import greenlet_spawn

from app.dsn import Dsn
from app.errors import DatabaseError, DuplicateKeyError, MissingReferenceError, MissingTableError
from app.logs import current_request

logger = logging.getLogger(__name__)

REVISION = max(file.name.partition("_")[0] for file in Path(__file__).parents[1].glob("migrations/versions/[0-9]*.py"))
"""The newest migration, whose file's name begins with it; the code needs a database that has it."""

COMMAND_TIMEOUT_SECONDS = 10.0
POOL_TIMEOUT_SECONDS = 10.0
WAKE_SECONDS = 5.0
"""How long a database that refuses connections is waited for, from its first refusal on."""

# Servers close idle connections, and Neon suspends after five minutes: a connection is retired before that.
_RECYCLE_SECONDS = 240
_WAKE_INTERVAL_SECONDS = 0.2


type Statement = tuple[Executable, Mapping[str, Any]]
"""A statement and its parameters. Those of a turn are built once, since building and hashing them costs more than sending."""


class Database:
    """A pool of connections; every failure of the database leaves it as a DatabaseError."""

    def __init__(self, dsn: Dsn, *, pool_size: int) -> None:
        self.dsn = dsn
        self.engine = _sqlite_engine(dsn, pool_size) if dsn.sqlite else _postgresql_engine(dsn, pool_size)
        self._transactional = self.engine.execution_options(isolation_level="SERIALIZABLE")
        # SQLAlchemy's pool does not wake those who wait in it when opening a connection fails, so nobody may wait in it.
        self._places = asyncio.Semaphore(1 if dsn.in_memory else pool_size)

    async def execute(self, *statements: Statement) -> Sequence[Row[Any]]:
        """Run the statements, all or none, and return the rows of the last one.

        PostgreSQL gets them as one statement in AUTOCOMMIT, in one round trip where a transaction takes one for each and
        two more; so their parameters need names of their own, and none sees what another does. What failed because the
        connection was lost, or because the tables changed under a prepared statement, is tried once more: inserts must
        bring their own ids, so that a first try which did arrive shows itself by a duplicate key, and other statements
        must bear to run twice.

        Raises DatabaseError; its DuplicateKeyError where there is such a row already, its MissingReferenceError where
        the row that is referred to is gone.
        """
        try:
            return await self._attempt(statements)
        except _InterruptedError:
            return await self._attempt(statements)

    async def _attempt(self, statements: Sequence[Statement]) -> Sequence[Row[Any]]:
        request, started = current_request(), time.perf_counter()
        request.database_statements += len(statements)
        engine = self.engine
        if len(statements) > 1:
            if self.dsn.sqlite:
                engine = self._transactional
            else:
                statements = [_as_one(statements)]
        try:
            async with asyncio.timeout(POOL_TIMEOUT_SECONDS):
                await self._places.acquire()
            try:
                # One greenlet for all of it; AsyncConnection would start one for each step.
                return await greenlet_spawn(_run, engine.sync_engine, statements)
            finally:
                self._places.release()
        except (SQLAlchemyError, OSError) as error:
            raise _meaning(error) from error
        finally:
            request.database_seconds += time.perf_counter() - started

    async def is_migrated(self) -> bool:
        """Whether the tables are as new as the code needs them; raises DatabaseError."""
        try:
            [row] = await self.execute((text("SELECT max(version_num) FROM alembic_version"), {}))
        except MissingTableError:
            return False
        return (row[0] or "") >= REVISION

    async def check_revision(self) -> None:
        """Say in the log which command to run when the tables are missing or behind; opens the first connection too."""
        try:
            if not await self.is_migrated():
                logger.error("database.not_migrated", extra={"fields": {"run": "alembic upgrade head"}})
        except DatabaseError as error:
            logger.warning("database.unchecked", exc_info=error)

    async def migrate(self) -> None:
        """Bring the embedded database up to date; processes that start together take turns.

        Raises what SQLAlchemy and Alembic raise: the service cannot start then.
        """
        async with self.engine.connect() as connection:
            # SQLite changes a table by rebuilding it, and to drop the old one would delete all that refers to its rows.
            await connection.execute(text("PRAGMA foreign_keys = OFF"))
            await connection.execute(text("BEGIN IMMEDIATE"))
            await connection.run_sync(_upgrade)
            await connection.execute(text("COMMIT"))
            await connection.execute(text("PRAGMA foreign_keys = ON"))

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


def _run(engine: Engine, statements: Sequence[Statement]) -> Sequence[Row[Any]]:
    with engine.connect() as connection:
        try:
            for statement, parameters in statements:
                result = connection.execute(statement, parameters)
            rows = result.all() if result.returns_rows else ()
            connection.commit()
        except (DBAPIError, TimeoutError) as error:
            if isinstance(error, TimeoutError) or isinstance(_meaning(error), _InterruptedError):
                connection.invalidate()
            raise
        return rows


def _as_one(statements: Sequence[Statement]) -> Statement:
    """Return the last statement with the ones before it in its WITH clause."""
    parameters = {name: value for _, given in statements for name, value in given.items()}
    return _with(*(statement for statement, _ in statements)), parameters


@lru_cache
def _with(*statements: UpdateBase) -> Executable:
    *first, last = statements
    return last.add_cte(*(statement.cte(f"statement_{number}") for number, statement in enumerate(first, 1)))


def _postgresql_engine(dsn: Dsn, pool_size: int) -> AsyncEngine:
    connect_args = {
        "command_timeout": COMMAND_TIMEOUT_SECONDS,
        "async_creator_fn": _Waker().connect,
        **dsn.connect_args,
    }
    engine = _engine(dsn.url, pool_size, connect_args, pool_recycle=_RECYCLE_SECONDS)
    event.listen(engine.sync_engine, "checkout", _replace_if_closed)
    return engine


def _sqlite_engine(dsn: Dsn, pool_size: int) -> AsyncEngine:
    # A database in memory lives and dies with its one connection.
    engine = _engine(dsn.url, 1 if dsn.in_memory else pool_size, {})
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    return engine


def _engine(url: URL, pool_size: int, connect_args: dict[str, Any], **kwargs: Any) -> AsyncEngine:
    return create_async_engine(
        url,
        connect_args=connect_args,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        hide_parameters=True,  # They are readers' words, and an exception's message would quote them.
        poolclass=AsyncAdaptedQueuePool,
        pool_size=pool_size,
        max_overflow=0,
        pool_use_lifo=True,  # Connections that are not needed age out.
        **kwargs,
    )


class _Waker:
    """Opens connections, and waits for a database that is starting or waking.

    The wait is counted from the first refusal: once it is over, refusals are passed on at once until a connection
    succeeds, so that requests do not queue up behind a database that is gone.
    """

    def __init__(self) -> None:
        self._away_since: float | None = None
        self._refused_at = 0.0

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        if time.monotonic() - self._refused_at > WAKE_SECONDS + _WAKE_INTERVAL_SECONDS:
            self._away_since = None  # Nobody has asked since: it may have been back, and sleep again.
        while True:
            try:
                connection = await asyncpg.connect(*args, **kwargs)
            except (TimeoutError, socket.gaierror, ssl.SSLCertVerificationError):
                raise
            except (OSError, asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError):
                self._refused_at = time.monotonic()
                self._away_since = self._away_since or self._refused_at
                if self._refused_at - self._away_since >= WAKE_SECONDS:
                    raise
                await asyncio.sleep(_WAKE_INTERVAL_SECONDS)
            else:
                self._away_since = None
                return connection


class _InterruptedError(DatabaseError):
    """The connection was lost, or the tables changed under a prepared statement: a second try may succeed."""


def _meaning(error: Exception) -> DatabaseError:
    original = error.orig if isinstance(error, DBAPIError) else None
    code = getattr(original, "sqlstate", None) or getattr(original, "sqlite_errorname", None) or ""
    if code in {"23505", "SQLITE_CONSTRAINT_PRIMARYKEY"}:
        return DuplicateKeyError()
    if code in {"23503", "SQLITE_CONSTRAINT_FOREIGNKEY"}:
        return MissingReferenceError()
    if code == "42P01":
        return MissingTableError()
    stale = original is not None and isinstance(original.__cause__, asyncpg.InvalidCachedStatementError)
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    if stale or lost or code.startswith(("08", "57P")):
        return _InterruptedError()
    return DatabaseError()


def _replace_if_closed(dbapi_connection: Any, _record: object, _proxy: object) -> None:
    """Have the pool replace a connection that the server closed while it was idle; asking costs no round trip."""
    if dbapi_connection.driver_connection.is_closed():
        raise DisconnectionError


def _prepare_sqlite(dbapi_connection: Any, _record: object) -> None:
    cursor = dbapi_connection.cursor()
    for pragma in ("busy_timeout = 5000", "journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _upgrade(connection: Connection) -> None:
    # Alembic takes a third of a second to import, which only the embedded database has to pay at start.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config(Path(__file__).parents[1] / "alembic.ini", attributes={"connection": connection})
    command.upgrade(config, "head")
