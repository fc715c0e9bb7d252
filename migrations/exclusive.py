"""The connection that migrates: one process at a time has it, and it waits for no lock for long.

Who waits for a lock on a table holds up everyone who comes after. So a migration gives up soon, lets the others pass, and tries again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic

from sqlalchemy import Connection, Row, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import SQLModel

from app.database import FAILURES, MIGRATION_LOCK, error_code
from app.pool import RefusedError
from migrations.vectors import FIND_PGVECTOR

logger = logging.getLogger("alembic.runtime.migration")

LOCK_SECONDS = 2.0
"""How long a migration waits for a lock, and lets others wait behind it."""
PAUSE_SECONDS = 3.0
"""How long the others then have for themselves."""
PATIENCE_SECONDS = 600.0
"""How long a migration tries to get its locks, or waits for another process that migrates."""
LOCK_RETRY_SECONDS = 0.5
"""How often a migration looks whether the other process has finished."""
PROBE_SECONDS = 5.0
"""How long a server may take to serve a second connection."""

_LOCK_CODES = frozenset({"55P03", "40P01"})
"""The lock was not to be had in time, or the one who has it waits for us."""

# The role's own bounds are made for questions. Some hosts end transactions that are idle, as the one that holds the lock is.
_WITHOUT_TIMEOUTS = """
    SELECT set_config(name, '0', true) FROM pg_settings
    WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
"""
_TRY_ADVISORY_LOCK = text("SELECT pg_try_advisory_xact_lock(:lock)")
_LONGEST_HOLDER = text("""
    SELECT pid, application_name, usename, extract(epoch FROM clock_timestamp() - xact_start) AS seconds
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE granted AND pid <> pg_backend_pid() AND relation IN (SELECT to_regclass(name)::oid FROM unnest(CAST(:tables AS text[])) AS name)
    ORDER BY xact_start LIMIT 1
""")


@asynccontextmanager
async def exclusive_connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Connect, and hold the lock that lets one process at a time migrate; SQLite has its own.

    A second connection holds the lock, in a transaction that stays open: a pooler can give each transaction of one connection
    another session, and an index is built outside of any. A server that serves one connection alone needs no lock.
    """
    async with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            yield connection
            return
        # A stricter isolation would keep one snapshot until the end.
        await connection.execution_options(isolation_level="READ COMMITTED")
        await _lock(connection)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    second = await stack.enter_async_context(engine.connect())
                    await second.execute(text("SELECT 1"))
                    await second.rollback()
            except (RefusedError, *FAILURES):
                logger.warning("the server serves no second connection, so no other process may migrate it now")
                await stack.aclose()
                await connection.rollback()
                second = connection
            yield second


async def _lock(connection: AsyncConnection) -> None:
    # A statement that waits for the lock would be waited for by the index build of the process that has it.
    deadline = monotonic() + PATIENCE_SECONDS
    is_told = False
    while not await connection.scalar(_TRY_ADVISORY_LOCK, {"lock": MIGRATION_LOCK}):
        await connection.rollback()
        if monotonic() > deadline:
            raise TimeoutError("another process has been migrating the database for too long")
        if not is_told:
            logger.warning("another process migrates the database: waiting until it has finished")
            is_told = True
        await asyncio.sleep(LOCK_RETRY_SECONDS)
    await connection.execute(text(_WITHOUT_TIMEOUTS))
    # A query keeps its snapshot until the next statement, and a concurrent index build waits for the end of every snapshot.
    await connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))


async def run_patiently(connection: AsyncConnection, migrate: Callable[[Connection], None]) -> None:
    """Run the migrations, and again those that could not get a lock, until all are done.

    Raises what `migrate` raises; a lock that is not to be had within PATIENCE_SECONDS is a TimeoutError that says who holds it.
    """
    if connection.dialect.name == "postgresql":
        event.listen(connection.sync_connection, "begin", _prepare_transaction)
    deadline = monotonic() + PATIENCE_SECONDS
    while True:
        try:
            await connection.run_sync(migrate)
        except DBAPIError as error:
            if error_code(error) not in _LOCK_CODES:
                raise
            await connection.rollback()
            holder = await _longest_holder(connection)
            if monotonic() > deadline:
                raise TimeoutError(f"a lock is not to be had: {holder}") from error
            logger.warning("%s: trying again in %g seconds", holder, PAUSE_SECONDS)
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            return


def _prepare_transaction(connection: Connection) -> None:
    """Set what holds until the transaction ends; a pooler may give its session to others afterwards."""
    cursor = connection.connection.cursor()  # The connection itself would begin one more transaction here.
    for statement in (f"SELECT set_config('lock_timeout', '{LOCK_SECONDS}s', true)", _WITHOUT_TIMEOUTS, FIND_PGVECTOR):
        cursor.execute(statement)
    cursor.close()


async def _longest_holder(connection: AsyncConnection) -> str:
    holders = await connection.execute(_LONGEST_HOLDER, {"tables": list(SQLModel.metadata.tables)})
    row: Row[tuple[int, str, str, float | None]] | None = holders.first()
    await connection.rollback()
    if row is None:
        return "another transaction held a lock on a table"
    since = "" if row.seconds is None else f" for {row.seconds:.0f} seconds"
    return (
        f"process {row.pid} of the database ({row.application_name or row.usename}) has held a lock on a table{since}"
    )
