"""Behind a pooler in transaction mode, over TLS: PgBouncer, and a stand-in where that is not installed."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest
from dirty_equals import IsPartialDict

from app.database import REVISION
from app.pool import is_refusal
from tests import commands
from tests.conftest import API_KEY, BookCommand, Serve, Service, eventually, migrate
from tests.fake_openai import FakeOpenAI
from tests.load import ask_at_once, assert_rows_add_up, reading
from tests.patience import PATIENCE_SECONDS
from tests.pooler import PGBOUNCER, SERVER_CONNECTIONS, Front, PgBouncer, TlsPooler, pgbouncer
from tests.postgres import PostgresServer

DATABASE = f"behind_a_pooler_{os.getpid()}"  # Other processes may use the server too.


@pytest.fixture(scope="module")
def database_url(postgres: PostgresServer) -> str:
    """The direct address of a migrated database of this module's own."""
    create(postgres, DATABASE)
    url = postgres.url(DATABASE)
    migrate(url)
    return url


def create(postgres: PostgresServer, database: str) -> None:
    async def connect_and_create() -> None:
        connection = await asyncpg.connect(postgres.url())
        await connection.execute(f"DROP DATABASE IF EXISTS {database} (FORCE)")
        await connection.execute(f"CREATE DATABASE {database}")
        await connection.close()

    asyncio.run(connect_and_create())


@pytest.fixture(scope="module")
def bouncer(postgres: PostgresServer) -> Iterator[PgBouncer]:
    if PGBOUNCER is None:
        pytest.skip("PgBouncer is not installed here (on Debian: apt-get install pgbouncer)")
    with pgbouncer(postgres.port) as pooler:
        yield pooler


@pytest.fixture
async def stand_in(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[TlsPooler]:
    async with TlsPooler(tmp_path, postgres.port).serve() as pooler:
        yield pooler


@pytest.fixture(params=["bouncer", "stand_in"])
def front(request: pytest.FixtureRequest) -> Front:
    pooler: Front = request.getfixturevalue(request.param)
    return pooler


async def serve_pooled(serve: Serve, front: Front, **parameters: str) -> Service:
    """Start the service with the string that Neon's console shows, which has to be told of a pooler on localhost."""
    url = front.url(DATABASE, **{"sslmode": "require", **parameters})
    return await serve(DATABASE_URL=url, DATABASE_POOLED="true")


def assert_database_error(service: Service, reason: str) -> None:
    [record] = service.log("database.error")
    assert reason in record["traceback"]


async def test_the_string_works_as_pasted(serve: Serve, front: Front) -> None:
    assert front.url(DATABASE, sslmode="require") == (
        f"postgresql://reader:p%40ss@localhost:{front.port}/{DATABASE}?sslmode=require"
    )
    service = await serve_pooled(serve, front)

    first = await service.chat("What is a robot?")
    second = await service.chat("And a humanoid?", session_id=first.json()["session_id"])

    assert (first.status_code, second.status_code) == (200, 200)
    assert second.json()["session_id"] == first.json()["session_id"]
    await assert_rows_add_up(service.tables, [("What is a robot?", first), ("And a humanoid?", second)])
    assert (await service.client.get("/health/ready")).status_code == 200


async def test_channel_binding_is_made_up_for_by_a_certificate_that_is_verified(serve: Serve, front: Front) -> None:
    service = await serve_pooled(serve, front, channel_binding="require", sslrootcert=str(front.authority))

    assert (await service.chat()).status_code == 200


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.pool.WAKE_SECONDS", 0.0)


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize(
    ("host", "trusted", "reason"),
    [
        ("localhost", False, "unable to get local issuer certificate"),
        ("127.0.0.1", True, "IP address mismatch"),
    ],
    ids=["an unknown authority", "another host's certificate"],
)
async def test_a_certificate_that_cannot_be_verified_is_not_put_up_with(
    serve: Serve, front: Front, host: str, reason: str, *, trusted: bool
) -> None:
    authority = {"sslrootcert": str(front.authority)} if trusted else {}
    url = front.url(DATABASE, host=host, sslmode="require", channel_binding="require", **authority)
    service = await serve(DATABASE_URL=url, DATABASE_POOLED="true")

    response = await service.chat()

    assert response.status_code == 500
    assert response.json() == {"error": IsPartialDict(code="database_error")}
    assert_database_error(service, "CERTIFICATE_VERIFY_FAILED")
    assert_database_error(service, reason)
    assert await service.tables.messages() == []


async def test_a_certificate_that_cannot_be_verified_is_no_reason_to_wait(
    serve: Serve, stand_in: TlsPooler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.pool.WAKE_SECONDS", 300.0)  # A database that refuses connections is waited for this long.
    service = await serve_pooled(serve, stand_in, channel_binding="require")

    async with asyncio.timeout(PATIENCE_SECONDS):
        response = await service.chat()

    assert response.json() == {"error": IsPartialDict(code="database_error")}


@pytest.mark.parametrize("sslmode", ["verify-ca", "prefer"])
async def test_what_does_not_ask_for_the_hosts_name_takes_any(serve: Serve, stand_in: TlsPooler, sslmode: str) -> None:
    authority = {"sslrootcert": str(stand_in.authority)} if sslmode == "verify-ca" else {}
    url = stand_in.url(DATABASE, host="127.0.0.1", sslmode=sslmode, **authority)
    service = await serve(DATABASE_URL=url, DATABASE_POOLED="true")

    assert (await service.chat()).status_code == 200


@pytest.mark.usefixtures("_impatient")
async def test_a_server_without_tls_is_not_put_up_with_where_it_is_required(serve: Serve, database_url: str) -> None:
    service = await serve(DATABASE_URL=f"{database_url}?sslmode=require")

    response = await service.chat()

    assert response.json() == {"error": IsPartialDict(code="database_error")}


async def test_what_the_pooler_refuses_is_a_database_error(serve: Serve, front: Front) -> None:
    service = await serve_pooled(serve, front, sslmode="disable")

    response = await service.chat()

    assert response.status_code == 500
    assert response.json() == {"error": IsPartialDict(code="database_error")}
    assert_database_error(service, "SSL required")


async def test_a_service_that_knows_of_its_pooler_prepares_nothing(serve: Serve, stand_in: TlsPooler) -> None:
    service = await serve_pooled(serve, stand_in)

    assert (await service.chat()).status_code == 200
    assert stand_in.refused == []
    assert service.log("database.pooler_found") == []


async def test_a_pooler_that_the_string_does_not_show_is_found_by_its_first_refusal(
    serve: Serve, stand_in: TlsPooler
) -> None:
    service = await serve(DATABASE_URL=stand_in.url(DATABASE, sslmode="require"))

    turns = await ask_at_once(service, questions=10)
    refused = list(stand_in.refused)
    turns += [(question, await service.chat(question)) for question in (f"Later {n}" for n in range(10))]

    assert [response.status_code for _, response in turns] == [200] * 20
    await assert_rows_add_up(service.tables, turns)
    assert refused
    assert all(refusal.startswith("prepared statement ") for refusal in refused)
    assert stand_in.refused == refused, "nothing is prepared any more"
    [record] = service.log("database.pooler_found")
    assert record == IsPartialDict(level="WARNING", set="DATABASE_POOLED=true")


@pytest.mark.slow
async def test_two_instances_work_behind_a_pgbouncer_that_they_know_nothing_of(
    serve: Serve, postgres: PostgresServer
) -> None:
    if PGBOUNCER is None:
        pytest.skip("PgBouncer is not installed here (on Debian: apt-get install pgbouncer)")
    # One of its own: what is prepared before it is found stays on its connections.
    with pgbouncer(postgres.port) as unknown:
        url = unknown.url(DATABASE, sslmode="require")
        services = [await serve(DATABASE_URL=url), await serve(DATABASE_URL=url)]

        turns = await ask_at_once(*services, questions=25)
        turns += [("Later", await services[0].chat("Later"))]

    assert [response.status_code for _, response in turns] == [200] * 51
    await assert_rows_add_up(services[0].tables, turns)


FULL = [
    ("53300", "sorry, too many clients already"),
    ("53000", "insufficient resources"),
    ("57P03", "the database system is starting up"),
    ("08001", "server login failed"),
    ("08004", "server rejected the connection"),
    ("08006", "terminating connection"),
    ("08P01", "no more connections allowed (max_client_conn)"),
    ("XX000", "MaxClientsInSessionMode: max clients reached - in Session mode max clients are limited to pool_size"),
    ("XX000", "Max client connections reached"),
    ("XX000", "Unable to check out process from the pool due to timeout"),
    ("XX000", "unable to check out connection from the pool due to timeout"),
]


FOR_GOOD = [("08P01", "no such user"), ("3D000", "no such database")]


@pytest.mark.parametrize(
    ("code", "message", "may_pass"),
    [
        *((code, message, True) for code, message in FULL),
        ("28P01", "password authentication failed", True),
        ("53300", "sorry", True),
        ("57P03", "the database system is starting up", True),
        *((code, message, False) for code, message in FOR_GOOD),
        ("28000", "no pg_hba.conf entry", False),
        ("XX000", "Tenant or user not found", False),
    ],
)
def test_what_a_server_says_tells_whether_it_may_pass(code: str, message: str, *, may_pass: bool) -> None:
    assert is_refusal(asyncpg.PostgresError.new({"C": code, "M": message})) == may_pass


@pytest.mark.slow
@pytest.mark.parametrize(("code", "message"), FULL)
async def test_a_pooler_that_is_full_at_first_is_waited_for(
    serve: Serve, stand_in: TlsPooler, code: str, message: str
) -> None:
    stand_in.full = [(code, message)] * 3

    service = await serve_pooled(serve, stand_in)

    assert (await service.chat()).status_code == 200
    assert stand_in.refused == [message] * 3


@pytest.mark.parametrize(("code", "message"), FOR_GOOD)
async def test_what_a_pooler_refuses_for_good_is_not_waited_for(
    serve: Serve, stand_in: TlsPooler, code: str, message: str
) -> None:
    stand_in.full = [(code, message)] * 100
    service = await serve_pooled(serve, stand_in)

    response = await service.client.get("/health/ready")
    refused = len(stand_in.refused)
    stand_in.full.clear()

    assert response.status_code == 503
    assert refused < 10, "nobody has tried for five seconds"
    assert (await service.chat()).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(("code", "message"), [full for full in FULL if full[0] in {"08P01", "XX000"}])
async def test_a_pooler_that_is_full_when_a_statement_comes_gets_it_again(
    serve: Serve, stand_in: TlsPooler, code: str, message: str
) -> None:
    service = await serve_pooled(serve, stand_in)
    turns = [("First", await service.chat("First"))]

    stand_in.busy = [(code, message)]
    turns.append(("Second", await service.chat("Second", session_id=turns[0][1].json()["session_id"])))

    assert [response.status_code for _, response in turns] == [200, 200]
    assert stand_in.refused == [message]
    await assert_rows_add_up(service.tables, turns)


@pytest.mark.slow
@pytest.mark.parametrize("sslmode", ["require", "prefer"])
async def test_two_instances_share_a_pgbouncer_that_admits_fewer_clients_than_their_pools_hold(
    serve: Serve, postgres: PostgresServer, sslmode: str
) -> None:
    if PGBOUNCER is None:
        pytest.skip("PgBouncer is not installed here (on Debian: apt-get install pgbouncer)")
    with pgbouncer(postgres.port, clients=6) as full:
        services = [await serve_pooled(serve, full, sslmode=sslmode) for _ in range(2)]
        turns = await ask_at_once(*services, questions=45)

    assert [response.status_code for _, response in turns] == [200] * 90
    await assert_rows_add_up(services[0].tables, turns)


@pytest.mark.slow
async def test_fifty_turns_at_once_from_two_instances_share_five_connections(serve: Serve, front: Front) -> None:
    services = [await serve_pooled(serve, front), await serve_pooled(serve, front)]

    turns = await ask_at_once(*services, questions=25)

    assert [response.status_code for _, response in turns] == [200] * 50
    assert len(await services[0].tables.messages()) == 100
    assert len(await services[0].tables.sessions()) == 50
    await assert_rows_add_up(services[0].tables, turns)


@pytest.fixture
async def alter(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A direct connection for changes of the tables, which are undone in the end."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.execute("ALTER TABLE messages ALTER COLUMN content TYPE text")
    await connection.close()


@pytest.mark.slow
async def test_a_column_changes_its_type_under_load(serve: Serve, front: Front, alter: asyncpg.Connection) -> None:
    services = [await serve_pooled(serve, front), await serve_pooled(serve, front)]

    async with reading(*services, readers=5) as readers:
        for kind in ("varchar", "text", "varchar", "text"):
            await readers.go_on(turns=15)
            await alter.execute(f"ALTER TABLE messages ALTER COLUMN content TYPE {kind}")
        await readers.go_on(turns=15)

    assert readers.failures == []
    await assert_rows_add_up(services[0].tables, readers.turns)


@pytest.mark.slow
async def test_nothing_stays_prepared_on_the_servers_connections(serve: Serve, bouncer: PgBouncer) -> None:
    service = await serve_pooled(serve, bouncer)
    async with reading(service, readers=10) as readers:
        await readers.go_on(turns=30)

    async with AsyncExitStack() as stack:
        prepared = {}
        for _ in range(SERVER_CONNECTIONS):
            connection = await asyncpg.connect(bouncer.url(DATABASE, sslmode="require"), statement_cache_size=0)
            stack.push_async_callback(connection.close)
            # Who is in a transaction keeps the server's connection, so that the next one gets another.
            await stack.enter_async_context(connection.transaction())
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            prepared[pid] = await connection.fetchval("SELECT count(*) FROM pg_prepared_statements")

    assert list(prepared.values()) == [0] * SERVER_CONNECTIONS


@pytest.mark.slow
async def test_servers_connections_that_die_behind_the_pooler_fail_no_turn(
    serve: Serve, bouncer: PgBouncer, alter: asyncpg.Connection
) -> None:
    service = await serve_pooled(serve, bouncer)
    before = await ask_at_once(service, questions=10)

    await kill_backends(alter)
    after = [(question, await service.chat(question)) for question in (f"Later {n}" for n in range(10))]

    assert [response.status_code for _, response in [*before, *after]] == [200] * 20
    await assert_rows_add_up(service.tables, [*before, *after])


@pytest.mark.slow
async def test_a_pooler_that_restarts_between_turns_fails_none(serve: Serve, bouncer: PgBouncer) -> None:
    service = await serve_pooled(serve, bouncer)
    before = await ask_at_once(service, questions=10)

    await asyncio.to_thread(bouncer.stop)
    await asyncio.to_thread(bouncer.start)
    after = [(question, await service.chat(question)) for question in (f"Later {n}" for n in range(10))]

    assert [response.status_code for _, response in [*before, *after]] == [200] * 20
    await assert_rows_add_up(service.tables, [*before, *after])


async def kill_backends(connection: asyncpg.Connection) -> None:
    """End every connection to the database but this one, and wait until they are gone."""
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    await connection.execute(f"SELECT pg_terminate_backend(pid) {others}")

    async def gone() -> bool:
        return not await connection.fetch(f"SELECT pid {others}")

    await eventually(gone)


@pytest.fixture
def empty(postgres: PostgresServer) -> str:
    """The name of a database without tables."""
    name = f"migrated_through_a_pooler_{os.getpid()}"
    create(postgres, name)
    return name


@pytest.mark.slow
async def test_two_deploys_migrate_through_the_pooler_at_once(
    front: Front, postgres: PostgresServer, empty: str, tmp_path: Path
) -> None:
    url = front.url(empty, sslmode="require", channel_binding="require", sslrootcert=str(front.authority))
    environment = {"DATABASE_URL": url}  # Nothing in it tells of the pooler.

    deploys = [commands.start(*commands.ALEMBIC, "upgrade", "head", folder=tmp_path, **environment) for _ in range(2)]
    results = [await asyncio.to_thread(commands.finish, deploy) for deploy in deploys]

    assert [status for status, _ in results] == [0, 0], results
    # Only the first to come has anything to do.
    assert sum("Running upgrade" in output for _, output in results) == 1
    connection = await asyncpg.connect(postgres.url(empty))
    version = await connection.fetchval("SELECT version_num FROM book_chat_alembic_version")
    await connection.close()
    assert version == REVISION


@pytest.mark.slow
@pytest.mark.usefixtures("database_url")
async def test_a_book_is_read_in_through_a_pooler(
    bouncer: PgBouncer,
    book_command: BookCommand,
    model_server: FakeOpenAI,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr("app.book.rows.RowWriter._insert")  # All rows are copied.
    (tmp_path / "arms.md").write_text("# Arms\n\nAn arm has joints.\n")
    arguments = ("ingest", tmp_path, "--url", "https://book.example.org/docs/")
    environment = {
        "DATABASE_URL": bouncer.url(DATABASE, sslmode="require"),
        "OPENAI_API_KEY": API_KEY,
        "OPENAI_BASE_URL": model_server.url,
    }

    status, output = await asyncio.to_thread(book_command, *arguments, **environment)
    again = await asyncio.to_thread(book_command, *arguments, **environment)

    assert (status, "1 page, 1 chunk: 1 new" in output) == (0, True), output
    assert (again[0], "0 new, 1 unchanged" in again[1]) == (0, True), again[1]
    assert "1 chunk embedded" in output
    removed = await asyncio.to_thread(book_command, "remove", *arguments[2:], **environment)
    assert removed == (0, "https://book.example.org/docs/: 1 chunk deleted\n")
