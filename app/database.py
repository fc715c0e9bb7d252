"""The database: from a connection string to an engine, and what its failures mean to us."""

import asyncio
import logging
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import aiosqlite
import asyncpg
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    ExceptionContext,
    Executable,
    Label,
    Row,
    Select,
    SQLColumnExpression,
    UpdateBase,
    event,
    inspect,
    literal,
    text,
    tuple_,
)
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util import greenlet_spawn
from sqlmodel import SQLModel

from app.dsn import UNCACHED, Dsn
from app.errors import DatabaseError, DuplicateKeyError, MissingReferenceError, MissingTableError
from app.logs import current_request
from app.models import ChatSession, Message
from app.pool import REFUSAL_SECONDS, ConnectionPool, Connector, RefusedError, is_full

logger = logging.getLogger(__name__)

REVISION = max(file.name.partition("_")[0] for file in Path(__file__).parents[1].glob("migrations/versions/[0-9]*.py"))
"""The newest migration, whose file's name begins with it; the code needs a database that has it."""

MIGRATION_LOCK = 0x626F6F6B
"""The advisory lock of the one process that may change what tables and indexes there are; earlier releases hold it too."""

VERSION_TABLE = "book_chat_alembic_version"
"""Where Alembic keeps this service's revision; `alembic_version` may be another application's."""

COMMAND_TIMEOUT_SECONDS = 10.0
POOL_TIMEOUT_SECONDS = 10.0

# Servers close idle connections, and Neon suspends after five minutes: a connection is retired before that.
_RECYCLE_SECONDS = 240

_SQLITE_BUSY_SECONDS = 5
_SQLITE_RETRY_SECONDS = 0.01


type Statement = tuple[Executable, Mapping[str, Any]]
"""A statement and its parameters. Those of a turn are built once, since building and hashing them costs more than sending."""


def _names(table: type[SQLModel]) -> str:
    return ", ".join(column.name for column in inspect(table).columns)


_SESSION, _MESSAGE = _names(ChatSession), _names(Message)
_READ = ("documents", "document_words", "books", "book_pages", "book_words", "pauses")

# SQLite's file has been migrated at the start, and so can be written.
_SQLITE_CHECK = text(
    f"SELECT max(version_num) FROM {VERSION_TABLE} WHERE NOT EXISTS (SELECT {_MESSAGE} FROM messages WHERE false)"  # noqa: S608  # Constants.
)
# PostgreSQL refuses what a turn reads and writes even if it concerns no row, and a refusal retires the connection where it should.
# Row-level security refuses rows alone.
_POSTGRESQL_CHECK = f"""
    WITH {{recording_tokens}}
         insert_session AS (INSERT INTO chat_sessions ({_SESSION}) SELECT {_SESSION} FROM chat_sessions WHERE false),
         update_session AS (UPDATE chat_sessions SET id = id WHERE false),
         insert_message AS (INSERT INTO messages ({_MESSAGE}) SELECT {_MESSAGE} FROM messages WHERE false),
         update_message AS (UPDATE messages SET id = id WHERE false)
    SELECT max(version_num),
           (SELECT bool_or({{is_barred}}) FROM pg_class
            WHERE oid IN ('chat_sessions'::regclass, 'messages'::regclass)) AS is_barred
    FROM {VERSION_TABLE}
    WHERE NOT EXISTS (SELECT FROM {", ".join(_READ)} WHERE false)
"""  # noqa: S608  # Constants.
_IS_BARRED = "row_security_active(pg_class.oid) AND NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = pg_class.oid)"
_RECORDING_TOKENS = """
    insert_tokens AS (
        INSERT INTO token_usage (day, process, tokens) SELECT day, process, tokens FROM token_usage WHERE false
        ON CONFLICT (day, process) DO UPDATE SET tokens = excluded.tokens),
"""
_POSTGRESQL_CHECKS = {
    counts_tokens: text(
        _POSTGRESQL_CHECK.format(recording_tokens=_RECORDING_TOKENS if counts_tokens else "", is_barred=_IS_BARRED)
    )
    for counts_tokens in (False, True)
}

PRIVILEGES = {
    VERSION_TABLE: ("SELECT",),
    "chat_sessions": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "messages": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "token_usage": ("SELECT", "INSERT", "UPDATE"),
    "tool_usage": ("SELECT", "INSERT", "UPDATE"),
    **dict.fromkeys(_READ, ("SELECT",)),
}
"""What the service does with each table: only with a budget with that of tokens, only with MCP with that of tools."""

_REMEDIES: Statement = (
    text(f"""
        WITH needed AS (SELECT * FROM unnest(CAST(:tables AS text[]), CAST(:privileges AS text[])) AS needed (name, privilege))
        SELECT format('GRANT %s ON %s TO %I', string_agg(privilege, ', ' ORDER BY privilege), pg_class.oid::regclass, current_user)
        FROM needed JOIN pg_class ON relname = name AND pg_table_is_visible(pg_class.oid)
        WHERE NOT has_table_privilege(pg_class.oid, privilege) GROUP BY pg_class.oid
        UNION ALL
        SELECT DISTINCT format('GRANT USAGE ON SCHEMA %I TO %I', nspname, current_user)
        FROM needed JOIN pg_class ON relname = name JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE NOT has_schema_privilege(pg_namespace.oid, 'USAGE')
        UNION ALL
        SELECT DISTINCT format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', pg_class.oid::regclass)
        FROM needed JOIN pg_class ON relname = name AND pg_table_is_visible(pg_class.oid) WHERE {_IS_BARRED}
    """),  # noqa: S608  # Constants.
    {
        "tables": [table for table, privileges in PRIVILEGES.items() for _ in privileges],
        "privileges": [privilege for privileges in PRIVILEGES.values() for privilege in privileges],
    },
)


class Database:
    """A pool of connections; every failure of the database leaves it as a DatabaseError."""

    def __init__(self, dsn: Dsn, *, pool_size: int) -> None:
        self.dsn = dsn
        self._connector = Connector(limit=pool_size)
        self.engine = _sqlite_engine(dsn) if dsn.sqlite else _postgresql_engine(dsn, self._connector)
        self._transactional = self.engine.execution_options(isolation_level="SERIALIZABLE")
        # A database in memory lives and dies with its one connection.
        self._places = asyncio.Semaphore(1 if dsn.in_memory else pool_size)

    async def execute(self, *statements: Statement) -> Sequence[Row[Any]]:
        """Run the statements, all or none, and return the rows of the last one.

        PostgreSQL gets them as one statement in AUTOCOMMIT, in one round trip where a transaction takes one for each and
        two more; so their parameters need names of their own, and none sees what another does. What failed because the
        connection was lost or is of no more use, or because the tables changed under a prepared statement, is tried
        once more: inserts must bring their own ids, so that a first try which did arrive shows itself by a duplicate
        key, and other statements must bear to run twice.

        Raises DatabaseError; its DuplicateKeyError where there is such a row already, its MissingReferenceError where
        the row that is referred to is gone.
        """
        try:
            return await self._attempt(statements)
        except _InterruptedError:
            return await self._attempt(statements)

    async def walk(
        self,
        statement: Select[*tuple[Any, ...]],
        *place: SQLColumnExpression[Any],
        batch: int,
        descending: bool = False,
    ) -> AsyncIterator[Row[Any]]:
        """Yield the rows in the order of their place, a batch in memory at a time; raises DatabaseError.

        The place is columns that are unique together. Each batch begins after the last row of the one before, so whatever is
        deleted meanwhile, no other row is left out.
        """
        here: list[Label[Any]] = [column.label(f"place_{number}") for number, column in enumerate(place)]
        in_order = [column.desc() if descending else column.asc() for column in place]
        statement = statement.add_columns(*here).order_by(*in_order).limit(batch)
        rows = await self.execute((statement, {}))
        while rows:
            for row in rows:
                yield row
            last = tuple_(*(literal(getattr(rows[-1], column.name), column.type) for column in here))
            following = tuple_(*place) < last if descending else tuple_(*place) > last
            rows = await self.execute((statement.where(following), {}))

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
            return await self._run_in_place(engine.sync_engine, statements)
        except FAILURES as error:
            if error_code(error) in _POOLER_CODES:
                self._connector.expect_pooler()
            raise _translate(error) from error
        finally:
            request.database_seconds += time.perf_counter() - started

    async def _run_in_place(self, engine: Engine, statements: Sequence[Statement]) -> Sequence[Row[Any]]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + POOL_TIMEOUT_SECONDS
        refusal = None
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._places.acquire()
            except TimeoutError as error:
                raise error from refusal
            seconds = 0.0
            try:
                # One greenlet for all of it; AsyncConnection would start one for each step.
                return await greenlet_spawn(_run, engine, statements)
            except RefusedError as error:
                # The next place is that of a connection that is open. This one stays empty for a while: whoever
                # took it now would be refused too.
                refusal, seconds = error.__cause__, REFUSAL_SECONDS
            finally:
                if seconds:
                    loop.call_later(seconds, self._places.release)
                else:
                    self._places.release()

    async def is_migrated(self, *, counts_tokens: bool = False) -> bool:
        """Whether the tables are as new as the code needs them; with `counts_tokens`, those of the day's budget too.

        Raises DatabaseError, also if the service may not use them. The log says then which statements would let it.
        """
        try:
            [row] = await self.execute((_SQLITE_CHECK if self.dsn.sqlite else _POSTGRESQL_CHECKS[counts_tokens], {}))
        except MissingTableError:
            await self._log_remedies()  # To a role that may not use their schema, the tables seem to be missing.
            return False
        except _ForbiddenError:
            await self._log_remedies()
            raise
        if not self.dsn.sqlite and row.is_barred:
            await self._log_remedies()
            raise _ForbiddenError
        return (row[0] or "") >= REVISION

    async def _log_remedies(self) -> None:
        remedies = [] if self.dsn.sqlite else [row[0] for row in await self.execute(_REMEDIES)]
        if remedies:
            logger.error("database.forbidden", extra={"fields": {"run": "; ".join(remedies)}})

    async def check_revision(self, *, counts_tokens: bool = False) -> None:
        """Say in the log which command to run when the tables are missing or behind; opens the first connection too."""
        try:
            if not await self.is_migrated(counts_tokens=counts_tokens):
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
        await self._connector.close()
        await self.engine.dispose()


def command_engine(dsn: Dsn) -> AsyncEngine:
    """Return an engine for a command that runs once: it connects to the direct host, and waits for it if it is waking.

    Without caches it also works behind a pooler in transaction mode that the string does not show.
    """
    dsn = dsn.direct
    connect_args = {} if dsn.sqlite else {**dsn.connect_args, **UNCACHED, "async_creator_fn": Connector().connect}
    return create_async_engine(dsn.url, connect_args=connect_args, poolclass=NullPool, hide_parameters=True)


def _run(engine: Engine, statements: Sequence[Statement]) -> Sequence[Row[Any]]:
    with engine.connect() as connection:
        for statement, parameters in statements:
            result = connection.execute(statement, parameters)
        rows = result.all() if result.returns_rows else ()
        connection.commit()
        return rows


def _as_one(statements: Sequence[Statement]) -> Statement:
    """Return the last statement with the ones before it in its WITH clause."""
    parameters = {name: value for _, given in statements for name, value in given.items()}
    return _with(*(statement for statement, _ in statements)), parameters


@lru_cache
def _with(*statements: UpdateBase) -> Executable:
    *first, last = statements
    return last.add_cte(*(statement.cte(f"statement_{number}") for number, statement in enumerate(first, 1)))


def _postgresql_engine(dsn: Dsn, connector: Connector) -> AsyncEngine:
    connect_args = {
        "command_timeout": COMMAND_TIMEOUT_SECONDS,
        "async_creator_fn": connector.connect,
        # asyncpg counts its names. Behind a pooler that nobody knows of, two processes could run each other's statements.
        "prepared_statement_name_func": None if dsn.pooled else _unique_name,
        **dsn.connect_args,
    }
    engine = _engine(dsn.url, connect_args, pool_recycle=_RECYCLE_SECONDS)
    event.listen(engine.sync_engine, "do_connect", connector.prepare)
    event.listen(engine.sync_engine, "checkout", connector.replace_if_useless)
    event.listen(engine.sync_engine, "checkin", connector.give_up)
    event.listen(engine.sync_engine, "handle_error", _retire)
    return engine


def _unique_name() -> str:
    return f"book_chat_{uuid.uuid4()}"


def _sqlite_engine(dsn: Dsn) -> AsyncEngine:
    engine = _engine(dsn.url, {})
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    return engine


def _engine(url: URL, connect_args: dict[str, Any], **kwargs: Any) -> AsyncEngine:
    return create_async_engine(
        url,
        connect_args=connect_args,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        hide_parameters=True,  # They are readers' words, and an exception's message would quote them.
        poolclass=ConnectionPool,
        **kwargs,
    )


class _InterruptedError(DatabaseError):
    """The connection is of no more use, or the tables changed under a prepared statement: a second try may succeed."""


class _ForbiddenError(DatabaseError):
    """The role may not do this."""


FAILURES = (SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError)
"""What the database raises; the driver's own exceptions come from the set-up of a new connection."""

_POOLER_CODES = frozenset({"26000", "42P05"})
"""A prepared statement is missing, or is there already: it was prepared on another of the pooler's connections."""

_READ_ONLY_CODE = "25006"
_CONFLICT_CODES = frozenset({"40001", "40P01"})
"""The transaction was rolled back because it met another one, such as a migration's, and can be tried again."""
_LOST_CODES = ("08", "57P")


def error_code(error: BaseException) -> str:
    """Return the SQLSTATE, SQLite's own name for the error, or an empty string."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return getattr(original, "sqlstate", None) or getattr(original, "sqlite_errorname", None) or ""


def reason(error: BaseException) -> str:
    """Return what the database said, without the statement that it was said of."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        error = error.orig.__cause__ or error.orig
    return str(error) or type(error).__name__


def _is_useless_after(error: BaseException) -> bool:
    """Whether no statement can succeed any more on the connection that reported this.

    After a failover, old connections may lead to a server that only reads. Supavisor admits a client first, and tells it with
    its first statement that there is no connection for it.
    """
    code = error_code(error)
    is_unusable = code in _POOLER_CODES or code == _READ_ONLY_CODE or code.startswith(_LOST_CODES)
    return is_unusable or (code == "XX000" and is_full(error))


def _retire(context: ExceptionContext) -> None:
    """Have SQLAlchemy close the connection, and those that were opened before the error when they are used next."""
    error = context.original_exception
    if _is_useless_after(error):
        context.is_disconnect = True
    elif isinstance(error, TimeoutError) or isinstance(error.__cause__, asyncpg.InvalidCachedStatementError):
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False


def _translate(error: Exception) -> DatabaseError:
    code = error_code(error)
    if code in {"23505", "SQLITE_CONSTRAINT_PRIMARYKEY"}:
        return DuplicateKeyError()
    if code in {"23503", "SQLITE_CONSTRAINT_FOREIGNKEY"}:
        return MissingReferenceError()
    if code in {"42P01", "42703"}:
        return MissingTableError()
    if code == "42501":
        return _ForbiddenError()
    if (
        code in _CONFLICT_CODES
        or _is_useless_after(error)
        or (isinstance(error, DBAPIError) and error.connection_invalidated)
    ):
        return _InterruptedError()
    return DatabaseError()


def _prepare_sqlite(dbapi_connection: Any, _record: object) -> None:
    dbapi_connection.run_async(_set_pragmas)


async def _set_pragmas(connection: aiosqlite.Connection) -> None:
    await connection.execute(f"PRAGMA busy_timeout = {_SQLITE_BUSY_SECONDS * 1000}")
    await _use_wal(connection)
    await connection.execute("PRAGMA synchronous = NORMAL")
    await connection.execute("PRAGMA foreign_keys = ON")


async def _use_wal(connection: aiosqlite.Connection) -> None:
    """Switch the file to write-ahead logging, for which SQLite does not wait as it does for other locks."""
    deadline = time.monotonic() + _SQLITE_BUSY_SECONDS
    while True:
        try:
            await connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname != "SQLITE_BUSY" or time.monotonic() > deadline:
                raise
            await asyncio.sleep(_SQLITE_RETRY_SECONDS)
        else:
            return


def _upgrade(connection: Connection) -> None:
    has_version = inspect(connection).has_table(VERSION_TABLE)
    if has_version and connection.scalars(text(f"SELECT version_num FROM {VERSION_TABLE}")).all() == [REVISION]:  # noqa: S608  # A constant.
        return
    # Alembic takes a third of a second to import, which only an embedded database that is missing or behind has to pay.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config(Path(__file__).parents[1] / "alembic.ini", attributes={"connection": connection})
    command.upgrade(config, "head")
