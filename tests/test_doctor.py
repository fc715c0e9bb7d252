"""`python -m app.admin doctor`: what would fail a deployment is said before a reader finds it, with its remedy."""

import asyncio
import re
import socket
import ssl
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import make_url

from app import dsn
from app.database import VERSION_TABLE, Database
from app.doctor.server import _is_near, unreachable
from app.errors import DatabaseError
from app.models import utc_now
from app.pause import begin_pause
from tests.books import LEGS, WHEELS, replace_book
from tests.conftest import API_KEY, PASSWORD, AdminCommand, migrate, query
from tests.fake_openai import FakeOpenAI, completion, embeddings, failure, html_page, json_body
from tests.pooler import PGBOUNCER, pgbouncer
from tests.postgres import PostgresServer, free_port

type Examine = Callable[..., Awaitable[tuple[int, list[str]]]]

ORIGIN = "https://book.example.org"


@pytest.fixture
def url(postgres_url: str) -> Iterator[str]:
    """A migrated PostgreSQL database without a book."""
    yield postgres_url
    query(postgres_url, "DELETE FROM books", "DELETE FROM pauses")


@pytest.fixture
def examine(
    admin_command: AdminCommand,
    model_server: FakeOpenAI,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Examine:
    """Look at a deployment to which nothing is wrong but what these variables say; gives the status and the lines."""

    async def examine(*arguments: str, **environment: str) -> tuple[int, list[str]]:
        sound = {
            "DATABASE_URL": url,
            "OPENAI_API_KEY": API_KEY,
            "OPENAI_BASE_URL": model_server.url,
            "DAILY_TOKEN_BUDGET": "1000000",
            "CORS_ORIGINS": ORIGIN,
        }
        for name, value in {**sound, **environment}.items():
            monkeypatch.setenv(name, value)
        status, output = await admin_command("doctor", *arguments)
        assert API_KEY not in output
        assert PASSWORD not in output
        return status, output.splitlines()

    return examine


def faults(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("FAULT")]


def advice(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("advice")]


async def put_book(url: str, model: str = "text-embedding-3-small") -> None:
    database = Database(dsn.parse(url), pool_size=1)
    await replace_book(database, LEGS, WHEELS, model=model)
    await database.close()


async def test_a_sound_deployment_is_sound(examine: Examine, url: str, model_server: FakeOpenAI) -> None:
    await put_book(url)
    model_server.enqueue(completion("Yes."))

    status, lines = await examine("--ask")

    assert status == 0, lines
    assert faults(lines) == advice(lines) == []
    assert lines[-1] == "0 faults, 0 pieces of advice."
    said = "\n".join(lines)
    for what in (
        "production",
        "DAILY_TOKEN_BUDGET is 1,000,000",
        "A round trip takes",
        "may open 5 connections",
        "The revision is",
        "2 pages, 2 chunks",
        "text-embedding-3-small gives 1536 dimensions",
        "has gpt-6-luna",
        "gpt-6-luna answers",
    ):
        assert what in said
    assert len(model_server.requests) == 1


async def test_the_model_is_asked_only_on_request(examine: Examine, model_server: FakeOpenAI) -> None:
    status, _ = await examine()

    assert status == 0
    assert model_server.requests == []


async def test_every_setting_that_is_missing_or_wrong_is_said_and_the_rest_is_looked_at(
    examine: Examine, model_server: FakeOpenAI
) -> None:
    status, lines = await examine(
        OPENAI_BASE_URL="gateway.example.org", CORS_ORIGINS="everywhere", DATABASE_POOL_SIZE="0", BOOK_TITLE="A book"
    )

    assert status == 1
    assert [line.split()[2] for line in faults(lines)] == ["OPENAI_BASE_URL", "CORS_ORIGINS", "DATABASE_POOL_SIZE"]
    assert any("The revision is" in line for line in lines)
    assert model_server.embedding_requests == []


async def test_a_key_is_sent_to_no_other_server_than_its_own(examine: Examine, url: str) -> None:
    await put_book(url)

    status, lines = await examine(OPENAI_BASE_URL="gateway.example.org")

    assert status == 1
    assert any("2 pages, 2 chunks" in line for line in lines)
    assert not any(" embeddings " in line for line in lines)


async def test_without_any_setting_all_that_is_missing_is_said(
    admin_command: AdminCommand, model_server: FakeOpenAI
) -> None:
    status, output = await admin_command("doctor")

    assert status == 1
    assert [line.split()[1:3] for line in faults(output.splitlines())] == [
        ["settings", "DATABASE_URL"],
        ["settings", "OPENAI_API_KEY"],
        ["limits", "Whoever"],
    ]
    assert output.startswith("3 faults, 1 piece of advice.\n")


async def test_a_service_without_limits_lets_cost_run(examine: Examine) -> None:
    status, lines = await examine(DAILY_TOKEN_BUDGET="", RATE_LIMIT="")
    with_rate, _ = await examine(DAILY_TOKEN_BUDGET="", RATE_LIMIT="20/minute")
    dead_redis = f"redis://:{PASSWORD}@127.0.0.1:{free_port()}"
    without_redis, dead = await examine(RATE_LIMIT="20/minute", DAILY_TOKEN_BUDGET="", RATE_LIMIT_STORAGE=dead_redis)

    assert (status, with_rate, without_redis) == (1, 0, 1)
    assert ["DAILY_TOKEN_BUDGET=1000000" in line for line in faults(lines)] == [True]
    assert ["Redis does not answer" in line for line in faults(dead)] == [True]


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"port": 1}, "Nothing answers at 127.0.0.1. Correct host and port"),
        ({"host": "db.invalid"}, "There is no host db.invalid"),
        ({"database": "absent"}, 'database "absent" does not exist'),
        ({"username": "nobody", "password": PASSWORD}, 'role "nobody" does not exist'),
    ],
)
async def test_a_database_that_cannot_be_reached_is_said_with_its_remedy(
    examine: Examine, url: str, change: dict[str, str], remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.pool.WAKE_SECONDS", 0.0)
    broken = make_url(url).set(**change).render_as_string(hide_password=False)  # type: ignore[arg-type]

    status, lines = await examine(DATABASE_URL=broken)

    assert status == 1
    [line] = faults(lines)
    assert remedy in line
    assert any("has gpt-6-luna" in line for line in lines)


async def test_tables_that_are_missing_or_behind_are_migrated(examine: Examine, empty_url: str) -> None:
    missing, none = await examine(DATABASE_URL=empty_url)
    await asyncio.to_thread(migrate, empty_url)
    await asyncio.to_thread(query, empty_url, f"UPDATE {VERSION_TABLE} SET version_num = '0003'")
    behind, old = await examine(DATABASE_URL=empty_url)
    await asyncio.to_thread(query, empty_url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    ahead, _ = await examine(DATABASE_URL=empty_url)
    await asyncio.to_thread(query, empty_url, "ALTER SCHEMA public RENAME TO elsewhere", "CREATE SCHEMA public")
    hidden, elsewhere = await examine(DATABASE_URL=empty_url)

    assert (missing, behind, ahead, hidden) == (1, 1, 0, 1)
    assert "chat_sessions" in faults(none)[0]
    assert faults(none)[0].endswith("Run: alembic upgrade head")
    assert "revision 0003" in faults(old)[0]
    assert faults(old)[0].endswith("Run: alembic upgrade head")
    assert faults(elsewhere)[0].endswith("Run: ALTER ROLE postgres SET search_path TO elsewhere;")


@pytest.fixture
def stranger(url: str) -> Iterator[str]:
    """The address for a role of a deployment, which may do nothing yet."""
    role = f"Role-{uuid.uuid4().hex}"
    query(url, f'CREATE ROLE "{role}" LOGIN')
    yield make_url(url).set(username=role).render_as_string()
    query(url, f'DROP OWNED BY "{role}"', f'DROP ROLE "{role}"')


def statements(lines: list[str]) -> list[str]:
    return [match[1] for line in lines if (match := re.search(r"Run as \w+ owner: (.+;)$", line))]


async def test_the_statements_that_it_names_give_the_role_what_it_lacks(
    examine: Examine, url: str, stranger: str
) -> None:
    role = make_url(stranger).username
    await asyncio.to_thread(query, url, f'GRANT SELECT, INSERT, UPDATE ON chat_sessions, messages TO "{role}"')

    first, lines = await examine(DATABASE_URL=stranger)
    await asyncio.to_thread(query, url, *statements(faults(lines)))
    second, later = await examine(DATABASE_URL=stranger)
    await asyncio.to_thread(query, url, *statements(advice(later)))
    third, last = await examine(DATABASE_URL=stranger)

    assert (first, second, third) == (1, 0, 0), later
    assert any("DELETE in chat_sessions, messages" in line for line in faults(lines))
    assert any("SELECT or INSERT or UPDATE in token_usage" in line for line in faults(lines))
    assert all("only commands need" in line for line in advice(later) if "grants" in line)
    assert not any("grants" in line for line in advice(last))


@pytest.mark.parametrize(
    ("table", "needing", "without"),
    [
        ("token_usage", {}, {"DAILY_TOKEN_BUDGET": "", "RATE_LIMIT": "20/minute"}),
        ("tool_usage", {"MCP_ENABLED": "true"}, {"MCP_ENABLED": "false"}),
    ],
)
async def test_a_table_is_needed_only_for_what_is_counted_in_it(  # noqa: PLR0913  # Fixtures.
    examine: Examine, url: str, stranger: str, *, table: str, needing: dict[str, str], without: dict[str, str]
) -> None:
    role = make_url(stranger).username
    await asyncio.to_thread(
        query, url, f'GRANT ALL ON ALL TABLES IN SCHEMA public TO "{role}"', f'REVOKE ALL ON {table} FROM "{role}"'
    )

    needed, lines = await examine(DATABASE_URL=stranger, **needing)
    not_needed, _ = await examine(DATABASE_URL=stranger, **without)

    assert (needed, not_needed) == (1, 0)
    assert f"in {table}, which the service needs" in faults(lines)[0]


async def test_row_level_security_that_hides_every_row_is_found(examine: Examine, url: str, stranger: str) -> None:
    role = make_url(stranger).username
    await asyncio.to_thread(
        query,
        url,
        f'GRANT ALL ON ALL TABLES IN SCHEMA public TO "{role}"',
        "ALTER TABLE messages ENABLE ROW LEVEL SECURITY",
    )
    try:
        hidden, lines = await examine(DATABASE_URL=stranger)
        await asyncio.to_thread(query, url, "CREATE POLICY everything ON messages USING (true)")
        with_policy, _ = await examine(DATABASE_URL=stranger)
        await asyncio.to_thread(query, url, "DROP POLICY everything ON messages", *statements(faults(lines)))
        repaired, _ = await examine(DATABASE_URL=stranger)
    finally:
        await asyncio.to_thread(query, url, "ALTER TABLE messages DISABLE ROW LEVEL SECURITY")

    assert (hidden, with_policy, repaired) == (1, 0, 0)


@pytest.mark.slow
@pytest.mark.skipif(PGBOUNCER is None, reason="PgBouncer is not installed here")
async def test_a_pooler_that_the_address_does_not_show_is_found(
    examine: Examine, postgres: PostgresServer, empty_url: str
) -> None:
    await asyncio.to_thread(migrate, empty_url)
    with pgbouncer(postgres.port) as pooler:
        behind = pooler.url(str(make_url(empty_url).database), sslmode="require")
        status, lines = await examine(DATABASE_URL=behind)
        known, told = await examine(DATABASE_URL=behind, DATABASE_POOLED="true")

    assert (status, known) == (0, 0)
    assert any("Set DATABASE_POOLED=true" in line for line in advice(lines))
    assert any(line.startswith("ok      pooler") for line in told)
    assert any("without verified certificate" in line for line in lines)


async def test_more_connections_than_the_server_allows_are_advice(examine: Examine, url: str) -> None:
    status, lines = await examine("--processes", "100")

    assert status == 0
    assert any(
        "may open 500 connections, and the server allows 197. Set DATABASE_POOL_SIZE=1" in line for line in lines
    )


async def test_a_book_whose_pages_may_not_ask_is_a_fault(examine: Examine, url: str) -> None:
    await put_book(url)

    refused, lines = await examine(CORS_ORIGINS="")
    by_pattern, _ = await examine(CORS_ORIGINS="", CORS_ORIGIN_REGEX=r"https://.*\.example\.org")

    assert (refused, by_pattern) == (1, 0)
    assert [ORIGIN in line for line in faults(lines)] == [True]


async def test_a_database_that_is_far_away_public_and_of_another_time_is_advice(
    examine: Examine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def take_long(_connection: object) -> float:
        return 0.05

    monkeypatch.setattr("app.doctor.server._round_trip", take_long)
    monkeypatch.setattr("app.doctor.server._is_near", lambda _host: False)
    monkeypatch.setattr("app.doctor.server.utc_now", lambda: utc_now() + timedelta(hours=1))

    status, lines = await examine(RATE_LIMIT="20/minute", CORS_ORIGINS="*")

    assert status == 0
    for said in (
        "A round trip takes 50.0 ms, and a turn waits for three.",
        "The connection is not encrypted. Add ?sslmode=require to DATABASE_URL.",
        "Its clock and this one's differ by 3600 s. Set them by NTP",
        "CORS_ORIGINS is *, so any website may ask at your cost. Name your own.",
    ):
        assert any(said in line for line in advice(lines)), said
    assert any("RATE_LIMIT_STORAGE makes Redis count for all" in line for line in lines)


@pytest.mark.parametrize(
    ("host", "is_near"),
    [
        *(("/cloudsql/project", True), ("localhost", True), ("postgres", True), ("db.railway.internal", True)),
        *(("10.0.0.7", True), ("::1", True), ("8.8.8.8", False), ("db.example.org", False)),
    ],
)
def test_a_private_network_needs_no_encryption(host: str, *, is_near: bool) -> None:
    assert _is_near(host) is is_near


async def test_a_server_that_only_reads_is_a_fault(examine: Examine, url: str) -> None:
    reading = make_url(url).update_query_dict({"options": "-c default_transaction_read_only=on"})

    status, lines = await examine(DATABASE_URL=reading.render_as_string(hide_password=False), CORS_ORIGINS="")

    assert status == 1
    assert [line.split(maxsplit=2)[2] for line in faults(lines)] == [
        "This server only reads. Set DATABASE_URL to the primary one."
    ]
    assert any("CORS_ORIGINS is not set" in line for line in advice(lines))


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (TimeoutError(), "db.example.org does not answer. Allow connections from here in its firewall"),
        (ConnectionRefusedError(), "Nothing answers at db.example.org. Correct host and port in DATABASE_URL"),
        (socket.gaierror(), "There is no host db.example.org. Correct it in DATABASE_URL."),
        (ssl.SSLError("wrong version"), "wrong version',). Correct sslmode or sslrootcert in DATABASE_URL."),
        (asyncpg.InvalidPasswordError("no"), "refuses the user or the password: no. Copy DATABASE_URL again"),
        (asyncpg.InvalidCatalogNameError("no"), "has no such database: no. Correct the last part of DATABASE_URL"),
        (asyncpg.TooManyConnectionsError("no"), "has no connection left: no. Lower DATABASE_POOL_SIZE"),
        (asyncpg.DiskFullError("no"), "db.example.org cannot be used: no"),
    ],
    ids=repr,
)
def test_each_way_in_which_a_database_cannot_be_reached_has_its_remedy(error: Exception, remedy: str) -> None:
    parsed = dsn.parse("postgresql://reader@db.example.org/book")
    failed = DatabaseError()
    failed.__cause__ = error

    for each in (error, failed):
        assert remedy in unreachable(each, parsed)


async def test_what_is_no_fault_is_advice(examine: Examine, url: str, model_server: FakeOpenAI) -> None:
    no_book, without = await examine()
    await put_book(url)
    model_server.enqueue_embeddings(failure(404))
    no_embeddings, failing = await examine()
    model_server.enqueue_embeddings(embeddings(512))
    changed, shorter = await examine()
    await put_book(url, model="another")
    other_model, others = await examine()
    database = Database(dsn.parse(url), pool_size=1)
    await begin_pause(database, None)
    await database.close()
    paused, pausing = await examine()

    assert (no_book, no_embeddings, changed, other_model, paused) == (0, 0, 0, 0, 0)
    for lines, said in (
        (without, "There is no book"),
        (failing, "gives no embeddings of at most 1536 dimensions (404)"),
        (shorter, "gives 512 dimensions, and the book's embeddings have 1536"),
        (others, "The book has embeddings of another, not of text-embedding-3-small"),
        (pausing, "To go on: python -m app.admin resume"),
    ):
        assert any(said in line for line in advice(lines)), lines


async def test_embeddings_that_cannot_be_compared_get_the_statement_that_lets_them(
    examine: Examine, array: str
) -> None:
    await put_book(array)

    status, lines = await examine(DATABASE_URL=array)

    assert status == 0
    assert any("ALTER TABLE documents ALTER COLUMN embedding TYPE vector(1536);" in line for line in advice(lines))


@pytest.mark.parametrize(
    ("models", "status", "said"),
    [
        (failure(401, f"Incorrect API key provided: {API_KEY}"), 1, "refuses the key"),
        (failure(403), 0, "may not list models"),
        (failure(404), 0, "lists no models"),
        (failure(405), 0, "lists no models"),
        (failure(500), 0, "answers 500"),
        (html_page(), 0, "does not answer in JSON"),
        (json_body({"data": []}), 0, "lists no models"),
        (json_body([{"name": "other"}]), 0, "is not among the 1 models"),
        (json_body({"models": [{"name": "models/gpt-6-luna"}]}), 0, "has gpt-6-luna"),
        (json_body({"data": [{"id": "gpt-6-luna:latest"}]}), 0, "has gpt-6-luna"),
    ],
)
async def test_what_the_list_of_models_tells(
    examine: Examine, model_server: FakeOpenAI, models: object, status: int, said: str
) -> None:
    model_server.models = models  # type: ignore[assignment]

    found, lines = await examine()

    assert found == status, lines
    assert any(said in line for line in lines if " model " in line), lines


async def test_a_model_that_does_not_answer_is_a_fault(examine: Examine, model_server: FakeOpenAI) -> None:
    model_server.enqueue(failure(404, f"No such model for {API_KEY}", code="model_not_found"))

    asked, lines = await examine("--ask")
    unreachable, others = await examine("--ask", OPENAI_BASE_URL=f"http://127.0.0.1:{free_port()}/v1?key={PASSWORD}")

    assert (asked, unreachable) == (1, 1)
    assert "status 404 model_not_found" in faults(lines)[0]
    assert ["cannot be reached" in line for line in faults(others)] == [True]


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("sqlite://", 1, "all conversations are lost with the process. Set DATABASE_URL."),
        ("sqlite:///absent/chat.db", 1, "absent/chat.db cannot be written. Create its folder"),
        ("sqlite:///new.db", 0, "for one machine whose disk stays. Otherwise set DATABASE_URL to a PostgreSQL."),
    ],
)
async def test_an_embedded_database_is_looked_at_and_never_made(
    examine: Examine, tmp_path: Path, path: str, status: int, said: str
) -> None:
    found, lines = await examine(DATABASE_URL=path)

    assert found == status, lines
    assert any(said in line for line in lines), lines
    assert [*await asyncio.to_thread(tmp_path.iterdir)] == []


async def test_an_embedded_database_with_a_book_is_sound(examine: Examine, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/chat.db"
    await asyncio.to_thread(migrate, url)
    await put_book(url)

    status, lines = await examine(DATABASE_URL=url)

    assert status == 0
    assert any("2 pages, 2 chunks" in line for line in lines)
    assert ["SQLite in" in line for line in advice(lines)] == [True]


@pytest.mark.parametrize("processes", ["0", "-1", "many", "10001"])
async def test_a_number_of_processes_is_one(admin_command: AdminCommand, processes: str) -> None:
    status, output = await admin_command("doctor", "--processes", processes)

    assert status == 2
    assert "must be a number of processes" in output
