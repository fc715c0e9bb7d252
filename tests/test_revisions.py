"""Every revision, also the next one: what it does to a database whose readers go on asking."""

import asyncio
import logging
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, event

from tests.conftest import ROOT, CreateDatabase, check, eventually, migrate, query
from tests.postgres import PostgresServer

REVISIONS = [
    revision.revision for revision in ScriptDirectory.from_config(Config(ROOT / "alembic.ini")).walk_revisions()
]
REVISIONS.reverse()

SESSION = "00000000-0000-4000-8000-000000000000"
ROWS = (
    f"INSERT INTO chat_sessions (id, created_at, updated_at) VALUES ('{SESSION}', now(), now())",
    f"""
    INSERT INTO messages (id, session_id, role, content, created_at)
    SELECT gen_random_uuid(), '{SESSION}', 'user', 'Why?', now() FROM generate_series(1, 3)
    """,
)
"""These tables grow with every question. A scan or a rewrite of the others takes a moment."""

SCANS_UNDER_LOCK = """
    SELECT relname FROM pg_stat_xact_user_tables
    WHERE relname IN ('chat_sessions', 'messages') AND seq_tup_read + n_tup_upd + n_tup_del > 0 AND EXISTS (
        SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND relation = relid
        AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))
"""
"""The large tables that this transaction has read or changed row by row, and locked against those who write."""

LETS_OTHERS_WRITE = re.compile(
    r"\s*(SELECT|INSERT|UPDATE|DELETE)\b|.*\bCONCURRENTLY\b|.*\bVALIDATE CONSTRAINT\b", re.DOTALL
)
"""What may run outside of a transaction."""

COLUMNS = """
    SELECT relname || '.' || attname, format_type(atttypid, atttypmod), attnotnull, atthasdef
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
"""


class InterruptionError(Exception):
    """The process that migrates is ended."""


class Watch:
    """What a migration does: `outside` are its statements outside of a transaction, `wrong` those that hold readers up."""

    def __init__(self) -> None:
        self.outside: list[str] = []
        self.wrong: list[str] = []
        self.fail_after: int | None = None

    def see(self, connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SET"):
            return  # The connection that holds the lock ends with this, and must not read anything afterwards.
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            cursor = connection.connection.cursor()
            cursor.execute(SCANS_UNDER_LOCK)
            self.wrong += [f"{table} is read or changed under a lock: {statement}" for (table,) in cursor.fetchall()]
            cursor.close()
            return
        if not LETS_OTHERS_WRITE.match(statement):
            self.wrong.append(f"locks others out: {statement}")
        if not statement.lstrip().startswith("SELECT"):
            self.outside.append(statement)
            if len(self.outside) == self.fail_after:
                raise InterruptionError(statement)


@contextmanager
def watching(fail_after: int | None = None) -> Iterator[Watch]:
    watch = Watch()
    watch.fail_after = fail_after
    event.listen(Engine, "after_cursor_execute", watch.see)
    try:
        yield watch
    finally:
        event.remove(Engine, "after_cursor_execute", watch.see)


def columns(url: str) -> dict[str, tuple[str, bool, bool]]:
    return {name: (kind, required, has_default) for name, kind, required, has_default in query(url, COLUMNS)}


@pytest.fixture
def url(create_database: CreateDatabase) -> str:
    """An empty PostgreSQL database."""
    return create_database("postgres")


@pytest.mark.slow
def test_no_revision_holds_readers_up_or_breaks_the_release_before(url: str) -> None:
    """If your revision fails here, see "Add a column" in CONTRIBUTING.md; `migrations/online.py` has what it needs."""
    migrate(url, REVISIONS[0])
    query(url, *ROWS)
    for revision in REVISIONS[1:]:
        before = columns(url)
        with watching() as watch:
            migrate(url, revision)
        after = columns(url)

        assert watch.wrong == [], revision
        tables = {name.partition(".")[0] for name in before}
        added = {name: after[name] for name in after.keys() - before.keys() if name.partition(".")[0] in tables}
        assert before.items() <= after.items(), f"{revision} takes away or changes what the release before needs"
        needed = [name for name, (_, required, has_default) in added.items() if required and not has_default]
        assert needed == [], f"{revision} adds columns that the release before cannot fill"
    assert query(url, "SELECT count(*) FROM messages") == [(3,)]


@pytest.mark.slow
def test_an_interrupted_revision_can_be_run_again(url: str) -> None:
    migrate(url, REVISIONS[0])
    query(url, *ROWS)
    interruptions = 0
    for revision in REVISIONS[1:]:
        for step in range(1, 10):
            with watching(fail_after=step) as watch:
                try:
                    migrate(url, revision)
                except InterruptionError:
                    interruptions += 1
                    if index := re.search(r"CREATE INDEX CONCURRENTLY (\w+)", watch.outside[-1]):
                        # One that is not finished is left behind like this.
                        query(url, f"UPDATE pg_index SET indisvalid = false WHERE indexrelid = '{index[1]}'::regclass")
                else:
                    assert len(watch.outside) < step
                    break

    assert interruptions >= 4
    check(url)
    assert query(url, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrations that neither wait nor pause for long."""
    monkeypatch.setattr("migrations.exclusive.LOCK_SECONDS", 0.2)
    monkeypatch.setattr("migrations.exclusive.PAUSE_SECONDS", 0.2)


@asynccontextmanager
async def dumping(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Read every message in one transaction until the block ends, as a dump does."""
    connection = await asyncpg.connect(url, server_settings={"application_name": "a-dump"})
    try:
        async with connection.transaction():
            await connection.fetch("SELECT * FROM messages")
            yield connection
    finally:
        await connection.close()


@pytest.mark.slow
async def test_questions_are_asked_while_a_migration_waits_for_a_reader(
    url: str, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread(migrate, url, "0001")
    caplog.set_level(logging.WARNING, "alembic.runtime.migration")

    async def tried(times: int) -> bool:
        return caplog.text.count("(a-dump) has held a lock on a table for ") >= times

    async with dumping(url):
        migrating = asyncio.create_task(asyncio.to_thread(migrate, url))
        await eventually(lambda: tried(1), 60)
        await asyncio.to_thread(query, url, *ROWS)  # Whoever wrote first would wait for the end of the dump.
        await eventually(lambda: tried(2), 60)
    await migrating

    await asyncio.to_thread(check, url)
    assert await asyncio.to_thread(query, url, "SELECT count(*) FROM messages") == [(3,)]


async def test_a_lock_that_is_not_to_be_had_ends_the_migration_with_its_holder(
    url: str, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("migrations.exclusive.PATIENCE_SECONDS", 0.0)
    await asyncio.to_thread(migrate, url, "0001")

    async with dumping(url):
        with pytest.raises(
            CommandError, match=r"cannot be migrated: .* \(a-dump\) has held a lock on a table for \d+ seconds"
        ):
            await asyncio.to_thread(migrate, url, "0002")

    assert await asyncio.to_thread(query, url, "SELECT version_num FROM book_chat_alembic_version") == [("0001",)]


@pytest.mark.slow
def test_a_server_that_serves_one_connection_is_migrated(
    postgres: PostgresServer, create_database: CreateDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    role = f"lonely_{uuid.uuid4().hex}"
    query(postgres.url(), f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 1")
    url = create_database(role)

    migrate(url)

    check(url)
    assert "serves no second connection" in caplog.text
