"""The database: from a connection string to an engine, and what its failures mean to us."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, event, text
from sqlalchemy.exc import DisconnectionError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from app.dsn import Dsn
from app.errors import DatabaseError
from app.logs import current_request

logger = logging.getLogger(__name__)

REVISION = "0001"
"""The newest migration; the code needs a database that has it."""

COMMAND_TIMEOUT_SECONDS = 10.0
POOL_TIMEOUT_SECONDS = 10.0
# Servers close idle connections, and Neon suspends after five minutes: a connection is retired before that.
RECYCLE_SECONDS = 240


class Database:
    """A pool of connections; every failure of the database leaves it as a DatabaseError."""

    def __init__(self, dsn: Dsn, *, pool_size: int) -> None:
        self.dsn = dsn
        self.engine = _sqlite_engine(dsn, pool_size) if dsn.sqlite else _postgresql_engine(dsn, pool_size)
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        event.listen(self.engine.sync_engine, "before_cursor_execute", _note_start)
        event.listen(self.engine.sync_engine, "after_cursor_execute", _count_statement)

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection on which each statement is its own transaction: one round trip where BEGIN makes three."""
        try:
            async with self._autocommit.connect() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            raise DatabaseError from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Lend a connection in a transaction, which commits when the block ends and rolls back when it fails."""
        try:
            async with self.engine.begin() as connection:
                yield connection
        except (SQLAlchemyError, OSError) as error:
            raise DatabaseError from error

    async def revision(self) -> str:
        """Return the newest migration that the database has had, or an empty string; raises DatabaseError."""
        async with self.autocommit() as connection:
            return (await connection.execute(text("SELECT max(version_num) FROM alembic_version"))).scalar() or ""

    async def check_revision(self) -> None:
        """Say in the log which command to run when the tables are missing or behind; opens the first connection too."""
        try:
            revision = await self.revision()
        except DatabaseError as error:
            logger.warning("database.unchecked", exc_info=error)
            return
        if revision < REVISION:
            fields = {"found": revision, "needed": REVISION, "run": "alembic upgrade head"}
            logger.error("database.not_migrated", extra={"fields": fields})

    async def migrate(self) -> None:
        """Bring the embedded database up to date; processes that start together take turns."""
        async with self.autocommit() as connection:
            await connection.execute(text("BEGIN IMMEDIATE"))
            await connection.run_sync(_upgrade)
            await connection.execute(text("COMMIT"))

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


def _postgresql_engine(dsn: Dsn, pool_size: int) -> AsyncEngine:
    connect_args = {"command_timeout": COMMAND_TIMEOUT_SECONDS, **dsn.connect_args}
    if dsn.pooled:
        # Behind a transaction pooler the next statement may meet another server, which has not prepared it.
        connect_args |= {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
    engine = _engine(dsn.url, pool_size, connect_args, pool_recycle=RECYCLE_SECONDS)
    event.listen(engine.sync_engine, "checkout", _replace_if_closed)
    return engine


def _sqlite_engine(dsn: Dsn, pool_size: int) -> AsyncEngine:
    # A database in memory lives and dies with its one connection.
    in_memory = dsn.url.database in {None, "", ":memory:"}
    engine = _engine(dsn.url, 1 if in_memory else pool_size, {})
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    return engine


def _engine(url: URL, pool_size: int, connect_args: dict[str, Any], **kwargs: Any) -> AsyncEngine:
    return create_async_engine(
        url,
        connect_args=connect_args,
        hide_parameters=True,  # They are readers' words, and an exception's message would quote them.
        poolclass=AsyncAdaptedQueuePool,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_SECONDS,
        pool_use_lifo=True,  # Connections that are not needed age out.
        **kwargs,
    )


def _replace_if_closed(dbapi_connection: Any, _record: object, _proxy: object) -> None:
    """Have the pool replace a connection that the server closed while it was idle; asking costs no round trip."""
    if dbapi_connection.driver_connection.is_closed():
        raise DisconnectionError


def _prepare_sqlite(dbapi_connection: Any, _record: object) -> None:
    cursor = dbapi_connection.cursor()
    for pragma in ("busy_timeout = 5000", "journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _note_start(_c: object, _cursor: object, _sql: str, _parameters: object, context: Any, _many: bool) -> None:
    context.started = time.perf_counter()


def _count_statement(_c: object, _cursor: object, _sql: str, _parameters: object, context: Any, _many: bool) -> None:
    request = current_request()
    request.database_statements += 1
    request.database_seconds += time.perf_counter() - context.started


def _upgrade(connection: Connection) -> None:
    # Alembic takes a third of a second to import, which only the embedded database has to pay at start.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config(Path(__file__).parents[1] / "alembic.ini", attributes={"connection": connection})
    command.upgrade(config, "head")
