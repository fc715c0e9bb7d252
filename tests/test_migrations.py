"""The migrations: on empty databases of both kinds, by the command line and by the service itself."""

import asyncio
import json
import sqlite3
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import asyncpg
import pytest
from alembic.config import Config
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, make_url, text

from app import dsn
from app.database import REVISION, VERSION_TABLE, Database
from app.errors import DatabaseError
from tests import commands
from tests.conftest import ROOT, CreateDatabase, Serve, check, migrate, query
from tests.pooler import TcpProxy
from tests.postgres import PostgresServer

TABLES = {
    "chat_sessions",
    "messages",
    "documents",
    "document_words",
    "books",
    "book_pages",
    "embeddings",
    "token_usage",
    "pauses",
    "tool_usage",
}


def tables(url: str) -> set[str]:
    """The names of the tables, without Alembic's own and those that a full-text table consists of."""
    statement = (
        "SELECT name FROM pragma_table_list WHERE type IN ('table', 'virtual') AND name NOT LIKE 'sqlite_%'"
        if dsn.parse(url).sqlite
        else "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    )
    return {row[0] for row in query(url, statement)} - {VERSION_TABLE}


@pytest.fixture
def postgresql(create_database: CreateDatabase) -> str:
    """An empty PostgreSQL database."""
    return create_database("postgres")


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    """An SQLite database that does not exist yet."""
    return f"sqlite+aiosqlite:///{tmp_path}/empty.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind."""
    address: str = request.getfixturevalue(request.param)
    return address


@pytest.mark.slow
def test_up_and_down_and_up_again(url: str) -> None:
    for _ in range(2):
        migrate(url)
        assert tables(url) == TABLES | (set() if dsn.parse(url).sqlite else {"book_words"})
        check(url)

        migrate(url, "base")
        assert tables(url) == set()


@pytest.mark.slow
def test_a_downgrade_leaves_no_enum_type_behind(postgresql: str) -> None:
    enums = "SELECT typname FROM pg_type WHERE typtype = 'e'"
    migrate(postgresql)
    assert query(postgresql, enums) == [("message_role_enum",)]

    migrate(postgresql, "base")
    assert query(postgresql, enums) == []


def test_upgrading_twice_changes_nothing(url: str) -> None:
    session_id = "00000000000040008000000000000000"
    migrate(url)
    query(url, f"INSERT INTO chat_sessions VALUES ('{session_id}', CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, NULL, NULL)")

    migrate(url)

    assert len(query(url, "SELECT id FROM chat_sessions")) == 1


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_the_service_migrates_the_embedded_database_without_losing_what_refers_to_what(url: str) -> None:
    session_id, question_id, reply_id = ("00000000000040008000000000000000"[:-1] + digit for digit in "012")
    migrate(url)
    query(
        url,
        f"INSERT INTO chat_sessions (id, created_at, updated_at) VALUES ('{session_id}', '2026-01-01', '2026-01-01')",
        *(
            f"INSERT INTO messages (id, session_id, role, content, created_at, reply_to) "
            f"VALUES ('{message_id}', '{session_id}', 'user', 'Why?', '2026-01-01', {reply_to})"
            for message_id, reply_to in ((question_id, "NULL"), (reply_id, f"'{question_id}'"))
        ),
    )

    async def rebuild_a_table_and_delete() -> list[int]:
        database = Database(dsn.parse(url), pool_size=1)
        with patch("app.database._upgrade", rebuild_messages):
            await database.migrate()
        kept = await database.execute((text("SELECT id FROM messages"), {}))
        await database.execute((text("DELETE FROM chat_sessions"), {}))
        left = await database.execute((text("SELECT id FROM messages"), {}))
        await database.close()
        return [len(kept), len(left)]

    assert asyncio.run(rebuild_a_table_and_delete()) == [2, 0]


def rebuild_messages(connection: Connection) -> None:
    """Do what Alembic does to alter a table of SQLite's, to the table of sessions too."""
    operations = Operations(MigrationContext.configure(connection))
    for table in ("chat_sessions", "messages"):
        with operations.batch_alter_table(table, recreate="always"):
            pass


def test_the_code_knows_the_newest_revision() -> None:
    assert ScriptDirectory.from_config(Config(ROOT / "alembic.ini")).get_heads() == [REVISION]


def test_the_columns_of_postgresql(postgresql: str) -> None:
    migrate(postgresql)

    columns = query(
        postgresql,
        """
        SELECT format('%s.%s %s%s', relname, attname, format_type(atttypid, atttypmod),
                      CASE WHEN attnotnull THEN '' ELSE ' null' END)
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'book_chat_alembic_version' AND attnum > 0
        ORDER BY relname, attnum
        """,
    )

    assert [row[0] for row in columns] == [
        "book_pages.book_id uuid",
        "book_pages.page text",
        "book_pages.number integer",
        "book_pages.address text",
        "book_pages.title text",
        "book_pages.part text null",
        "book_pages.headings json",
        "book_words.lexeme text",
        "book_words.book_id uuid",
        "book_words.chunks integer",
        "books.id uuid",
        "books.address text",
        "books.title text null",
        "books.locale text null",
        "books.pages integer",
        "books.chunks integer",
        "books.words integer",
        "books.embeddings json",
        "books.read_at timestamp with time zone",
        "books.counted_at timestamp with time zone null",
        "chat_sessions.id uuid",
        "chat_sessions.created_at timestamp with time zone",
        "chat_sessions.updated_at timestamp with time zone",
        "chat_sessions.title text null",
        "chat_sessions.owner text null",
        "document_words.id uuid",
        "document_words.words tsvector",
        "document_words.length integer",
        "document_words.book_id uuid null",
        "documents.id uuid",
        "documents.source text",
        "documents.title text",
        "documents.position integer",
        "documents.content text",
        "documents.embedding vector(1536) null",
        "documents.metadata json",
        "documents.created_at timestamp with time zone",
        "documents.book_id uuid null",
        "documents.page text null",
        "embeddings.digest text",
        "embeddings.model text",
        "embeddings.embedding bytea",
        "messages.id uuid",
        "messages.session_id uuid",
        "messages.role message_role_enum",
        "messages.content text",
        "messages.selected_text text null",
        "messages.created_at timestamp with time zone",
        "messages.answering_until timestamp with time zone null",
        "messages.feedback text null",
        "messages.sources json null",
        "messages.reply_to uuid null",
        "messages.claim_id uuid null",
        "messages.feedback_comment text null",
        "messages.model text null",
        "messages.prompt_tokens integer null",
        "messages.completion_tokens integer null",
        "messages.duration_ms integer null",
        "messages.retrieved integer null",
        "messages.cited integer null",
        "messages.truncated boolean null",
        "messages.service_tier text null",
        "messages.cached_tokens integer null",
        "messages.reasoning_tokens integer null",
        "pauses.id smallint",
        "pauses.message text null",
        "pauses.began_at timestamp with time zone",
        "token_usage.day date",
        "token_usage.process uuid",
        "token_usage.tokens bigint",
        "tool_usage.day date",
        "tool_usage.tool text",
        "tool_usage.calls bigint",
    ]


def test_the_keys_the_index_and_the_enum_of_postgresql(postgresql: str) -> None:
    migrate(postgresql)

    keys = query(
        postgresql,
        """
        SELECT format('%s: %s', conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'f') ORDER BY 1
        """,
    )
    assert [row[0] for row in keys] == [
        "book_chat_alembic_version: PRIMARY KEY (version_num)",
        "book_pages: FOREIGN KEY (book_id) REFERENCES books(id) ON DELETE CASCADE",
        "book_pages: PRIMARY KEY (book_id, page)",
        "book_words: FOREIGN KEY (book_id) REFERENCES books(id) ON DELETE CASCADE",
        "book_words: PRIMARY KEY (lexeme, book_id) INCLUDE (chunks)",
        "books: PRIMARY KEY (id)",
        "chat_sessions: PRIMARY KEY (id)",
        "document_words: FOREIGN KEY (id) REFERENCES documents(id) ON DELETE CASCADE",
        "document_words: PRIMARY KEY (id)",
        "documents: FOREIGN KEY (book_id) REFERENCES books(id) ON DELETE CASCADE",
        "documents: PRIMARY KEY (id)",
        "embeddings: PRIMARY KEY (digest, model)",
        "messages: FOREIGN KEY (reply_to) REFERENCES messages(id) ON DELETE CASCADE",
        "messages: FOREIGN KEY (session_id) REFERENCES chat_sessions(id) ON DELETE CASCADE",
        "messages: PRIMARY KEY (id)",
        "pauses: PRIMARY KEY (id)",
        "token_usage: PRIMARY KEY (day, process)",
        "tool_usage: PRIMARY KEY (day, tool)",
    ]
    indexes = query(postgresql, "SELECT indexdef FROM pg_indexes WHERE indexname LIKE 'ix_%' ORDER BY indexname")
    assert [definition.partition(" ON ")[2] for (definition,) in indexes] == [
        "public.book_words USING btree (book_id)",
        "public.chat_sessions USING btree (owner, created_at, id)",
        "public.document_words USING btree (book_id)",
        "public.document_words USING gin (book_id, words)",
        "public.documents USING btree (book_id, page)",
        "public.messages USING btree (created_at, id) WHERE (role = 'user'::message_role_enum)",
        "public.messages USING btree (reply_to)",
        "public.messages USING btree (session_id, created_at, id)",
    ]
    assert query(postgresql, "SELECT enum_range(NULL::message_role_enum)::text") == [("{user,assistant,system}",)]


def test_the_schema_of_sqlite(sqlite: str) -> None:
    migrate(sqlite)

    columns = query(
        sqlite,
        """
        SELECT t.name || '.' || c.name || ' ' || c.type || iif(c."notnull", '', ' null')
        FROM pragma_table_list t, pragma_table_info(t.name) c
        WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite_%' AND t.name <> 'book_chat_alembic_version'
        ORDER BY t.name, c.cid
        """,
    )
    assert [row[0] for row in columns] == [
        "book_pages.book_id CHAR(32)",
        "book_pages.page TEXT",
        "book_pages.number INTEGER",
        "book_pages.address TEXT",
        "book_pages.title TEXT",
        "book_pages.part TEXT null",
        "book_pages.headings JSON",
        "books.id CHAR(32)",
        "books.address TEXT",
        "books.title TEXT null",
        "books.locale TEXT null",
        "books.pages INTEGER",
        "books.chunks INTEGER",
        "books.words INTEGER",
        "books.embeddings JSON",
        "books.read_at DATETIME",
        "books.counted_at DATETIME null",
        "chat_sessions.id CHAR(32)",
        "chat_sessions.created_at DATETIME",
        "chat_sessions.updated_at DATETIME",
        "chat_sessions.title TEXT null",
        "chat_sessions.owner TEXT null",
        "documents.id CHAR(32)",
        "documents.source TEXT",
        "documents.title TEXT",
        "documents.position INTEGER",
        "documents.content TEXT",
        "documents.embedding BLOB null",
        "documents.metadata JSON",
        "documents.created_at DATETIME",
        "documents.book_id CHAR(32) null",
        "documents.page TEXT null",
        "embeddings.digest TEXT",
        "embeddings.model TEXT",
        "embeddings.embedding BLOB",
        "messages.id CHAR(32)",
        "messages.session_id CHAR(32)",
        "messages.role VARCHAR(9)",
        "messages.content TEXT",
        "messages.selected_text TEXT null",
        "messages.created_at DATETIME",
        "messages.answering_until DATETIME null",
        "messages.feedback TEXT null",
        "messages.sources JSON null",
        "messages.reply_to CHAR(32) null",
        "messages.claim_id CHAR(32) null",
        "messages.feedback_comment TEXT null",
        "messages.model TEXT null",
        "messages.prompt_tokens INTEGER null",
        "messages.completion_tokens INTEGER null",
        "messages.duration_ms INTEGER null",
        "messages.retrieved INTEGER null",
        "messages.cited INTEGER null",
        "messages.truncated BOOLEAN null",
        "messages.service_tier TEXT null",
        "messages.cached_tokens INTEGER null",
        "messages.reasoning_tokens INTEGER null",
        "pauses.id SMALLINT",
        "pauses.message TEXT null",
        "pauses.began_at DATETIME",
        "token_usage.day DATE",
        "token_usage.process CHAR(32)",
        "token_usage.tokens BIGINT",
        "tool_usage.day DATE",
        "tool_usage.tool TEXT",
        "tool_usage.calls BIGINT",
    ]
    keys = 'SELECT "table", "from", "to", on_delete FROM pragma_foreign_key_list(\'messages\')'
    assert sorted(query(sqlite, keys)) == [
        ("chat_sessions", "session_id", "id", "CASCADE"),
        ("messages", "reply_to", "id", "CASCADE"),
    ]
    index = "SELECT name FROM pragma_index_info('ix_messages_session_id_created_at_id') ORDER BY seqno"
    assert query(sqlite, index) == [("session_id",), ("created_at",), ("id",)]


BOOKS = {
    "https://book.example.org/docs/": ("en", ["intro", "legs/", "legs/knee", "legs/knee", "arms/hand"]),
    "https://book.example.org/docs/1.0/": ("ur", ["%DA%86%D9%84%D9%86%D8%A7"]),
}
"""Each book's language, and the page of each of its chunks."""


@pytest.mark.slow
def test_books_that_were_read_in_before_there_were_rows_for_them_get_theirs(url: str) -> None:
    migrate(url, "0009")
    is_sqlite = dsn.parse(url).sqlite
    for address, (locale, pages) in BOOKS.items():
        for number, page in enumerate(pages):
            meta = json.dumps(
                {"book": address, "page": address + page, "locale": locale, "model": "m", "dimensions": 2}
            )
            heading = f" \u203a Part {number}" if number else ""
            key = uuid.uuid4()
            embedding = "x'00'" if is_sqlite else "array_fill(1, ARRAY[1536])::vector"
            query(
                url,
                f"INSERT INTO documents VALUES ('{key.hex if is_sqlite else key}', '{address}{page}#{number}', "
                f"'{page.title()}{heading}', {number}, 'Text.', {embedding if number else 'NULL'}, '{meta}', "
                f"'2026-01-0{number + 1} 00:00:00')",
            )
            if not is_sqlite:
                query(url, f"INSERT INTO document_words VALUES ('{key}', 'two:1 words:2', 2)")
    by_hand = f"'{uuid.UUID(int=1).hex}', 'book.md', 'by hand', 0, 'A robot.', NULL, '{{}}', '2026-01-01 00:00:00'"
    query(url, f"INSERT INTO documents VALUES ({by_hand})")

    migrate(url)

    books = query(url, "SELECT address, title, locale, pages, chunks, words FROM books ORDER BY address")
    words = 0 if is_sqlite else 2
    assert books == [
        ("https://book.example.org/docs/", None, "en", 4, 5, 5 * words),
        ("https://book.example.org/docs/1.0/", None, "ur", 1, 1, words),
    ]
    assert query(url, "SELECT number, page, title, part FROM book_pages ORDER BY page, number") == [
        (0, "book.example.org/docs/1.0/\u0686\u0644\u0646\u0627", "%Da%86%D9%84%D9%86%D8%A7", None),
        (3, "book.example.org/docs/arms/hand", "Arms/Hand", "Arms"),
        (0, "book.example.org/docs/intro", "Intro", None),
        (1, "book.example.org/docs/legs", "Legs/", "Legs/"),
        (2, "book.example.org/docs/legs/knee", "Legs/Knee", "Legs/"),
    ]
    marked = "SELECT count(*) FROM documents JOIN book_pages USING (book_id, page)"
    assert query(url, marked, "SELECT count(*) FROM documents WHERE book_id IS NULL") == [(1,)]
    assert query(url, marked) == [(6,)]
    assert query(url, "SELECT CAST(embeddings AS text) FROM books ORDER BY address") == [
        ('[{"model": "m", "dimensions": 2, "chunks": 4}]',),
        ("[]",),
    ]
    headings = "SELECT CAST(headings AS text) FROM book_pages WHERE title = 'Legs/Knee'"
    assert query(url, headings) == [('["Part 2", "Part 3"]',)]


def chunk_of_a_book(number: int) -> tuple[str, str]:
    """The statements that store a chunk of the one book as the release before 0014 does, and its words."""
    key = uuid.uuid4()
    return (
        f"""
        INSERT INTO documents VALUES ('{key}', 'legs#{number}', 'Legs', {number}, 'Text.',
                                      array_fill({number + 1}, ARRAY[1536])::vector, '{{}}', now(), '{BOOK_ID}', 'legs')
        """,
        f"INSERT INTO document_words VALUES ('{key}', 'leg:1 walk{number % 2}:2', 2, '{BOOK_ID}')",
    )


BOOK_ID = uuid.UUID(int=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("embeddings", "index"),
    [(10_000, []), (10_001, ["hnsw (((embedding)::halfvec(1536)) halfvec_cosine_ops)"])],
    ids=["few", "many"],
)
def test_a_library_that_is_there_gets_its_counts_and_its_index_beside_its_readers(
    postgresql: str, embeddings: int, index: list[str]
) -> None:
    migrate(postgresql, "0013")
    counted = json.dumps([{"model": "m", "dimensions": 1536, "chunks": embeddings}])
    query(
        postgresql,
        f"INSERT INTO books VALUES ('{BOOK_ID}', 'https://book.example.org/', NULL, 'en', 1, 5, 10, '{counted}', now())",
        *(statement for number in range(5) for statement in chunk_of_a_book(number)),
    )

    migrate(postgresql)

    assert query(postgresql, "SELECT lexeme, chunks FROM book_words ORDER BY lexeme") == [
        ("leg", 5),
        ("walk0", 3),
        ("walk1", 2),
    ]
    assert query(postgresql, "SELECT counted_at = read_at FROM books") == [(True,)]
    definition = query(postgresql, "SELECT indexdef FROM pg_indexes WHERE indexname = 'ix_documents_embedding'")
    assert [text.partition(" USING ")[2] for (text,) in definition] == index
    check(postgresql)

    # What the release before does goes on: it knows nothing of the counts.
    query(postgresql, *chunk_of_a_book(5), "DELETE FROM documents WHERE position = 0")
    migrate(postgresql, "0013")
    assert query(postgresql, "SELECT count(*) FROM document_words WHERE words @@ 'leg'") == [(5,)]
    migrate(postgresql)
    assert query(postgresql, "SELECT chunks FROM book_words WHERE lexeme = 'leg'") == [(5,)]


def test_an_embedding_can_be_stored_and_searched(postgresql: str) -> None:
    migrate(postgresql)

    nearest = query(
        postgresql,
        document("near", "array_fill(1, ARRAY[1536])::vector"),
        document("far", "array_fill(-1, ARRAY[1536])::vector"),
        document("unknown", "NULL"),
        "SELECT title FROM documents WHERE embedding IS NOT NULL ORDER BY embedding <=> array_fill(2, ARRAY[1536])::vector",
    )

    assert nearest == [("near",), ("far",)]


def document(title: str, embedding: str) -> str:
    """The statement that stores a chunk of the book."""
    return f"""
        INSERT INTO documents (id, source, title, position, content, embedding, metadata, created_at)
        VALUES (gen_random_uuid(), 'book.md', '{title}', 0, 'A robot.', {embedding}, '{{}}', now())
    """


@pytest.mark.slow
def test_without_pgvector_the_embedding_is_an_array_that_pgvector_can_cast(
    tenants_database: str, install_pgvector: Callable[[], object], caplog: pytest.LogCaptureFixture
) -> None:
    embedding_type = "SELECT pg_typeof(embedding)::text FROM documents"

    migrate(tenants_database)

    assert [record.levelname for record in caplog.records if "real[]" in record.getMessage()] == ["WARNING"]
    check(tenants_database)
    query(tenants_database, document("near", "array_fill(1, ARRAY[1536])"))
    assert query(tenants_database, embedding_type) == [("real[]",)]

    install_pgvector()

    distance = "SELECT embedding::vector <=> array_fill(1, ARRAY[1536])::vector FROM documents"
    assert query(tenants_database, distance) == [(0.0,)]
    query(tenants_database, "ALTER TABLE documents ALTER COLUMN embedding TYPE vector(1536)")
    assert query(tenants_database, embedding_type) == [("vector",)]
    check(tenants_database)


@pytest.mark.slow
def test_pgvector_is_used_where_someone_else_installed_it(
    tenants_database: str, install_pgvector: Callable[[], object]
) -> None:
    install_pgvector()

    migrate(tenants_database)
    query(tenants_database, document("near", "array_fill(1, ARRAY[1536])::vector"))

    assert query(tenants_database, "SELECT pg_typeof(embedding)::text FROM documents") == [("vector",)]


@pytest.mark.slow
def test_a_host_that_allows_no_extension_at_all_gets_an_array(tenants_database: str, superusers: str) -> None:
    query(
        superusers,
        """
        CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'extension "vector" is not allow-listed' USING ERRCODE = '0A000';
        END $$
        """,
        "CREATE EVENT TRIGGER refusing ON ddl_command_start WHEN TAG IN ('CREATE EXTENSION') EXECUTE FUNCTION refuse()",
    )

    migrate(tenants_database)

    check(tenants_database)
    assert query(tenants_database, EMBEDDING_TYPE) == [("real[]",)]
    assert query(tenants_database, "SELECT indexdef FROM pg_indexes WHERE indexdef LIKE '% USING gin %'") == [
        ("CREATE INDEX ix_document_words_words ON public.document_words USING gin (words)",)
    ], "nor the one of books and words together"
    migrate(tenants_database, "base")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("grant", "embedding_type"),
    [("GRANT USAGE ON SCHEMA extensions TO public", "extensions.vector(1536)"), ("SELECT 1", "real[]")],
    ids=["usable", "out of bounds"],
)
def test_pgvector_is_found_in_a_schema_off_the_search_path(
    tenants_database: str, superusers: str, grant: str, embedding_type: str
) -> None:
    query(superusers, "CREATE SCHEMA extensions", "CREATE EXTENSION vector SCHEMA extensions", grant)

    migrate(tenants_database)

    check(tenants_database)
    assert query(tenants_database, EMBEDDING_TYPE) == [(embedding_type,)]
    assert tables(tenants_database) == TABLES | {"book_words"}
    query(tenants_database, document("near", "array_fill(1, ARRAY[1536])"))
    migrate(tenants_database, "base")


EMBEDDING_TYPE = """
    SELECT format_type(atttypid, atttypmod) FROM pg_attribute
    WHERE attrelid = 'documents'::regclass AND attname = 'embedding'
"""


@pytest.fixture
def superusers(tenants_database: str, postgres: PostgresServer) -> str:
    """The superuser's address of the tenant's database."""
    return postgres.url(tenants_database.rpartition("/")[2])


@pytest.mark.slow
@pytest.mark.parametrize(
    "revision",
    ["0001", *(pytest.param(f"000{number}", marks=pytest.mark.slow) for number in (3, 4, 5, 6, 7)), "0008"],
)
def test_a_database_that_an_older_release_migrated_goes_on(url: str, revision: str) -> None:
    session_id = "00000000000040008000000000000000"
    migrate(url, revision)
    query(
        url,
        f"CREATE TABLE alembic_version AS SELECT * FROM {VERSION_TABLE}",
        f"DROP TABLE {VERSION_TABLE}",
        f"INSERT INTO chat_sessions (id, created_at, updated_at) VALUES ('{session_id}', '2026-01-01', '2026-01-01')",
    )

    migrate(url)

    check(url)
    assert asyncio.run(is_migrated(url))
    assert len(query(url, "SELECT id FROM chat_sessions")) == 1
    assert query(url, "SELECT version_num FROM alembic_version") == [(revision,)], "the older release may come back"
    migrate(url, "base")
    migrate(url)
    check(url)


@pytest.mark.slow
def test_a_database_whose_messages_name_no_question_yet_goes_on(url: str) -> None:
    """Revision 0003 did not make that column at first."""
    migrate(url, "0002")
    query(
        url,
        "ALTER TABLE chat_sessions ADD COLUMN title TEXT",
        "ALTER TABLE chat_sessions ADD COLUMN owner TEXT",
        "CREATE INDEX ix_chat_sessions_owner_created_at_id ON chat_sessions (owner, created_at, id)",
        "ALTER TABLE messages ADD COLUMN feedback TEXT",
        "ALTER TABLE messages ADD COLUMN sources JSON",
        f"UPDATE {VERSION_TABLE} SET version_num = '0003'",
    )

    migrate(url)

    check(url)
    assert asyncio.run(is_migrated(url))
    migrate(url, "base")
    assert tables(url) == set()


@pytest.mark.slow
@pytest.mark.parametrize("revision", ["a1b2c3d4e5f6", "0003", REVISION])
def test_another_applications_revision_neither_satisfies_nor_stops(url: str, revision: str) -> None:
    query(
        url,
        "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)",
        f"INSERT INTO alembic_version VALUES ('{revision}')",
    )
    assert not asyncio.run(is_migrated(url))

    migrate(url)

    assert asyncio.run(is_migrated(url))
    check(url)
    migrate(url, "base")
    assert not asyncio.run(is_migrated(url))
    assert tables(url) == {"alembic_version"}
    assert query(url, "SELECT version_num FROM alembic_version") == [(revision,)]


async def is_migrated(url: str) -> bool:
    """What readiness is told; a failure means no."""
    database = Database(dsn.parse(url), pool_size=1)
    try:
        return await database.is_migrated()
    except DatabaseError:
        return False
    finally:
        await database.close()


@pytest.mark.slow
async def test_the_command_line_waits_for_a_database_that_wakes(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = threading.Event()
    connect = asyncpg.connect

    async def observed(*args: Any, **kwargs: Any) -> Any:
        try:
            return await connect(*args, **kwargs)
        except OSError:
            refused.set()
            raise

    monkeypatch.setattr("app.pool.asyncpg.connect", observed)
    parsed = make_url(postgresql)
    assert parsed.port is not None
    async with TcpProxy(parsed.port).serve() as network:
        network.cut()
        asleep = parsed.set(port=network.port).render_as_string(hide_password=False)
        migrating = asyncio.create_task(asyncio.to_thread(migrate, asleep))
        assert await asyncio.to_thread(refused.wait, 10)
        await network.restore()
        await migrating

    assert await is_migrated(postgresql)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prepare", "user", "cause"),
    [
        ("CREATE ROLE {user} LOGIN", "guest", "permission denied for schema public"),
        ("SELECT 1", "nobody_knows", 'role "{user}" does not exist'),
    ],
    ids=["no right to create", "no such user"],
)
def test_a_refusal_ends_the_command_line_with_its_cause(
    postgresql: str, tmp_path: Path, prepare: str, user: str, cause: str
) -> None:
    user = f"{user}_{uuid.uuid4().hex}"
    query(postgresql, "REVOKE CREATE ON SCHEMA public FROM public", prepare.format(user=user))

    status, output = commands.run(
        *commands.ALEMBIC,
        "upgrade",
        "head",
        folder=tmp_path,
        DATABASE_URL=postgresql.replace("postgres@", f"{user}@"),
    )

    assert status > 0
    assert output.splitlines()[-1] == f"FAILED: The database cannot be migrated: {cause.format(user=user)}"
    assert "Traceback" not in output


@pytest.mark.slow
async def test_deploys_that_migrate_at_the_same_time_take_turns(postgresql: str, tmp_path: Path) -> None:
    # Whoever has the lock waits for this transaction to make Alembic's table, so that the deploys do meet.
    gate = await asyncpg.connect(postgresql)
    await gate.execute("BEGIN; CREATE TABLE book_chat_alembic_version (version_num text)")
    deploys = [
        commands.start(*commands.ALEMBIC, "upgrade", "head", folder=tmp_path, DATABASE_URL=postgresql) for _ in range(3)
    ]
    others = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{make_url(postgresql).database}'"
    outside = await asyncpg.connect(postgresql)  # A transaction sees those who were there at its first look.
    try:
        async with asyncio.timeout(commands.TIMEOUT_SECONDS):
            # The one that migrates has two connections.
            while await outside.fetchval(others) < 2 + len(deploys) + 1:  # noqa: ASYNC110  # PostgreSQL has no event for it.
                await asyncio.sleep(0.01)
    finally:
        await outside.close()
        await gate.close()
        results = [commands.finish(deploy) for deploy in deploys]

    assert [status for status, _ in results] == [0, 0, 0], results
    assert sum("Running upgrade  -> 0001" in output for _, output in results) == 1
    assert sum("another process migrates the database" in output for _, output in results) == 2


async def test_a_file_that_another_process_is_making_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(tmp_path / "chat.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    async def finish(_seconds: float) -> None:
        if other.in_transaction:
            other.execute("COMMIT")

    monkeypatch.setattr("app.database.asyncio.sleep", finish)
    database = Database(dsn.parse(f"sqlite:///{tmp_path}/chat.db"), pool_size=1)
    await database.migrate()

    assert not other.in_transaction, "the lock was met"
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    await database.close()
    other.close()


@pytest.mark.slow
def test_processes_that_start_together_make_the_embedded_database_together(tmp_path: Path) -> None:
    start = """
import asyncio
import alembic.command
from app import dsn
from app.database import Database

async def start():
    database = Database(dsn.parse("sqlite:///chat.db"), pool_size=1)
    print("ready", flush=True)
    input()
    await database.migrate()
    print(await database.is_migrated())
    await database.close()

asyncio.run(start())
"""
    processes = [commands.start("-c", start, folder=tmp_path) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()

    assert [commands.finish(process) for process in processes] == [(0, "True\n")] * 3
    assert query(f"sqlite:///{tmp_path}/chat.db", "SELECT version_num FROM book_chat_alembic_version") == [(REVISION,)]


@pytest.mark.slow
def test_the_command_line_names_the_variable_that_it_misses(tmp_path: Path) -> None:
    status, output = commands.run(*commands.ALEMBIC, "upgrade", "head", folder=tmp_path)

    assert status > 0
    assert "DATABASE_URL is missing" in output
    assert "OPENAI_API_KEY" not in output
    assert "Traceback" not in output


@pytest.mark.slow
def test_the_command_line_needs_no_variable_but_the_databases(tmp_path: Path) -> None:
    status, output = commands.run(
        *commands.ALEMBIC, "upgrade", "head", folder=tmp_path, DATABASE_URL="sqlite:///book.db"
    )

    assert status == 0, output
    assert tables(f"sqlite:///{tmp_path}/book.db") == TABLES


@pytest.mark.parametrize("database_url", ["sqlite+aiosqlite:///:memory:", "sqlite://"])
async def test_the_service_answers_on_a_database_in_memory(serve: Serve, database_url: str) -> None:
    service = await serve()

    first = (await service.chat("What is a robot?")).json()
    responses = await asyncio.gather(*(service.chat("And?", session_id=first["session_id"]) for _ in range(5)))

    assert [(r.status_code, r.json()["session_id"]) for r in responses] == [(200, first["session_id"])] * 5
