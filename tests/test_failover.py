"""A database that closes connections, goes away and comes back: no wrong row, no lost message, and no request that hangs."""

import asyncio
import io
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, redirect_stdout
from typing import Any

import asyncpg
import httpx2
import psutil
import pytest
from dirty_equals import IsPartialDict
from sqlalchemy import make_url, text

from app import dsn
from app.database import POOL_TIMEOUT_SECONDS, Database
from tests.conftest import API_KEY, Serve, Service, eventually, migrate, running_service
from tests.fake_openai import FakeOpenAI, failure, held
from tests.load import Asked, ask_at_once, assert_rows_add_up, reading
from tests.patience import PATIENCE_SECONDS, stretched
from tests.pooler import TcpProxy
from tests.postgres import OwnPostgresServer, postgres_server

APPLICATION = "book_chat_under_test"


@pytest.fixture(scope="module")
def server() -> Iterator[OwnPostgresServer]:
    """A server of this module's own, to be stopped and started."""
    with postgres_server() as server:
        migrate(server.url())
        asyncio.run(keep_what_was_committed(server))
        yield server


async def keep_what_was_committed(server: OwnPostgresServer) -> None:
    """Undo the hurry of test servers, which lose the latest commits when they are stopped without notice."""
    connection = await asyncpg.connect(server.url())
    await connection.execute("ALTER DATABASE postgres SET synchronous_commit = on")
    await connection.close()


@pytest.fixture(scope="module")
def database_url(server: OwnPostgresServer) -> str:
    return f"{server.url()}?application_name={APPLICATION}"


@pytest.fixture
async def network(server: OwnPostgresServer) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(server.port).serve() as proxy:
        yield proxy


@pytest.fixture
def through_network(network: TcpProxy) -> str:
    """The connection string by way of the proxy."""
    return f"postgresql://postgres@127.0.0.1:{network.port}/postgres?sslmode=disable&connect_timeout=20"


@pytest.fixture
async def admin(server: OwnPostgresServer) -> AsyncIterator[asyncpg.Connection]:
    """A connection past the service."""
    connection = await asyncpg.connect(server.url())
    yield connection
    await connection.close()


async def ask_in_turn(service: Service, *, questions: int, name: str) -> list[Asked]:
    """Ask one question after the other in one session."""
    turns: list[Asked] = []
    session_id = None
    for number in range(questions):
        question = f"{name} {number}"
        response = await service.chat(question, **({"session_id": session_id} if session_id else {}))
        turns.append((question, response))
        session_id = response.json().get("session_id")
    return turns


def assert_answered(turns: list[Asked]) -> None:
    assert [response.status_code for _, response in turns] == [200] * len(turns)


def assert_database_errors(turns: list[Asked]) -> None:
    for _, response in turns:
        assert response.status_code == 500
        assert response.headers["Content-Type"] == "application/json"
        assert response.json() == {
            "error": IsPartialDict(code="database_error", request_id=response.headers["X-Request-ID"])
        }


async def pids(admin: asyncpg.Connection) -> set[int]:
    """The server's processes that serve the service."""
    rows = await admin.fetch("SELECT pid FROM pg_stat_activity WHERE application_name = $1", APPLICATION)
    return {row["pid"] for row in rows}


async def kill(admin: asyncpg.Connection) -> int:
    """End every connection of the service, and return how many there were."""
    killed = await pids(admin)
    await admin.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", list(killed))

    async def gone() -> bool:
        return not killed & await pids(admin)

    await eventually(gone)
    return len(killed)


@pytest.mark.slow
async def test_connections_that_the_server_closed_while_idle_fail_no_turn(
    serve: Serve, server: OwnPostgresServer, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SPARE_SECONDS", "GIVE_UP_SECONDS"):  # However long it takes, the service keeps what it has.
        monkeypatch.setattr(f"app.pool.{name}", 300)
    service = await serve()
    before = await ask_at_once(service, questions=10)

    async def only_the_admins_is_left() -> bool:
        connections = psutil.Process().net_connections("tcp")
        return [getattr(each.raddr, "port", None) for each in connections].count(server.port) == 1

    killed = await kill(admin)
    await eventually(only_the_admins_is_left)
    after = await ask_in_turn(service, questions=10, name="After the kill")

    assert killed == 5
    assert_answered([*before, *after])
    await assert_rows_add_up(service.tables, [*before, *after])
    # No statement had to be repeated.
    assert [record["database_statements"] for record in service.log("request")] == [3] * 20


@pytest.mark.parametrize(
    "sqlstate",
    [
        pytest.param("57P01", id="admin shutdown"),
        pytest.param("57P05", id="idle timeout", marks=pytest.mark.slow),
        pytest.param("08006", id="failure", marks=pytest.mark.slow),
    ],
)
async def test_what_a_server_breaks_off_is_repeated_on_another_connection(
    serve: Serve, admin: asyncpg.Connection, sqlstate: str
) -> None:
    service = await serve(DATABASE_POOL_SIZE="1")
    before = await ask_in_turn(service, questions=1, name="Before")
    used = await pids(admin)

    async with breaking_off_once(admin, sqlstate):
        turn = ("What is a robot?", await service.chat("What is a robot?"))

    assert_answered([*before, turn])
    await assert_rows_add_up(service.tables, [*before, turn])
    await eventually(lambda: has_left(admin, used))


@asynccontextmanager
async def breaking_off_once(admin: asyncpg.Connection, sqlstate: str) -> AsyncIterator[None]:
    """Have the next message that is written fail with this SQLSTATE; the server keeps the connection open."""
    await admin.execute(
        f"""
        CREATE SEQUENCE tries;
        CREATE FUNCTION break_off_once() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('tries') = 1 THEN RAISE 'broken off' USING ERRCODE = '{sqlstate}'; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER break_off_once BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION break_off_once();
        """
    )
    try:
        yield
        assert await admin.fetchval("SELECT last_value FROM tries") > 1
    finally:
        await admin.execute("DROP FUNCTION break_off_once CASCADE; DROP SEQUENCE tries")


async def has_left(admin: asyncpg.Connection, processes: set[int]) -> bool:
    """Whether the service uses none of these processes any more."""
    return not processes & await pids(admin)


@pytest.mark.slow
async def test_connections_that_are_killed_under_load_lose_no_message(serve: Serve, admin: asyncpg.Connection) -> None:
    service = await serve()

    killed = 0
    async with reading(service, readers=20) as readers:
        for _ in range(5):
            await readers.go_on(turns=20)
            killed += await kill(admin)
        await readers.go_on(turns=20)

    assert killed > 5
    assert_database_errors(readers.failures)
    # A statement is repeated once, so that it takes two kills in a row to fail a turn.
    assert len(readers.failures) <= len(readers.turns) // 10
    await assert_rows_add_up(service.tables, readers.turns)
    assert_answered(await ask_in_turn(service, questions=5, name="After the load"))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_server_that_restarts_under_load_loses_no_message(
    serve: Serve, server: OwnPostgresServer, mode: str
) -> None:
    service = await serve()

    async with reading(service, readers=20) as readers:
        await readers.go_on(turns=20)
        await asyncio.to_thread(server.stop, mode)
        await asyncio.to_thread(server.start)
        await readers.go_on(turns=40)

    assert_database_errors(readers.failures)
    await assert_rows_add_up(service.tables, readers.turns)


@pytest.mark.slow
async def test_turns_fail_in_time_while_the_server_is_away_and_work_again_once_it_is_back(
    serve: Serve, server: OwnPostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.pool.WAKE_SECONDS", 0.5)
    monkeypatch.setattr(
        "app.database.POOL_TIMEOUT_SECONDS", 300
    )  # Whoever had to wait in the pool would wait this long.
    service = await serve()
    turns = await ask_at_once(service, questions=5)
    [session_id] = [response.json()["session_id"] for _, response in turns[:1]]

    await asyncio.to_thread(server.stop)
    async with asyncio.timeout(PATIENCE_SECONDS):
        away: list[Asked] = [
            ("In a new session", await service.chat("In a new session")),
            ("In a session to look up", await service.chat("In a session to look up", session_id=session_id)),
        ]
    readiness = await service.client.get("/health/ready")
    health = await service.client.get("/health")
    await asyncio.to_thread(server.start)
    back = await ask_in_turn(service, questions=5, name="Back")

    assert_database_errors(away)
    assert (readiness.status_code, health.status_code) == (503, 200)
    assert_answered(back)
    await assert_rows_add_up(service.tables, [*turns, *away, *back])


@pytest.mark.slow
async def test_a_server_that_wakes_in_time_fails_no_turn(serve: Serve, server: OwnPostgresServer) -> None:
    service = await serve()
    turns = await ask_in_turn(service, questions=3, name="Before")

    await asyncio.to_thread(server.stop)
    asking = asyncio.create_task(ask_at_once(service, questions=20))
    await asyncio.to_thread(server.start)
    woken = await asking

    assert_answered([*turns, *woken])
    await assert_rows_add_up(service.tables, [*turns, *woken])


@pytest.mark.slow
async def test_a_server_that_sleeps_again_is_waited_for_again(
    serve: Serve, server: OwnPostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asked between the end of an outage and the next sleep, so no connection has shown that it was over."""
    clock = Clock()
    monkeypatch.setattr("app.pool.time", clock)
    monkeypatch.setattr("app.pool.WAKE_SECONDS", 0.2)
    service = await serve()
    await asyncio.to_thread(server.stop)
    try:
        outage = [("During an outage", await service.chat("During an outage"))]
        clock.ahead = 3600
        monkeypatch.setattr("app.pool.WAKE_SECONDS", PATIENCE_SECONDS)
        asking = asyncio.create_task(ask_in_turn(service, questions=1, name="An hour later"))
    finally:
        await asyncio.to_thread(server.start)
    woken = await asking

    assert_database_errors(outage)
    assert_answered(woken)


class Clock:
    """The module `time`, with a clock that can be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.perf_counter = time.perf_counter

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.mark.slow
async def test_a_service_without_a_single_connection_keeps_nobody_waiting_either(
    serve: Serve, network: TcpProxy, through_network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that cannot be opened has to let the next in line try: the first ones are not the only ones told."""
    monkeypatch.setattr("app.pool.WAKE_SECONDS", 0.5)
    monkeypatch.setattr(
        "app.database.POOL_TIMEOUT_SECONDS", 300
    )  # Whoever had to wait in the pool would wait this long.
    network.cut()
    service = await serve(DATABASE_URL=through_network)
    async with asyncio.timeout(PATIENCE_SECONDS):
        turns = await ask_at_once(service, questions=100)
    await network.restore()

    assert_database_errors(turns)
    assert_answered(await ask_in_turn(service, questions=3, name="Back"))


@pytest.mark.slow
async def test_a_hundred_turns_behind_a_dead_server_are_all_answered_in_time(
    serve: Serve, server: OwnPostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.pool.WAKE_SECONDS", 0.5)
    monkeypatch.setattr(
        "app.database.POOL_TIMEOUT_SECONDS", 300
    )  # Whoever had to wait in the pool would wait this long.
    service = await serve()
    await asyncio.to_thread(server.stop)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            turns = await ask_at_once(service, questions=100)
    finally:
        await asyncio.to_thread(server.start)

    assert_database_errors(turns)
    assert await service.tables.messages() == []
    assert_answered(await ask_in_turn(service, questions=3, name="Back"))


@pytest.mark.slow
async def test_a_network_that_is_cut_fails_turns_only_while_it_is(
    serve: Serve, network: TcpProxy, through_network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.pool.WAKE_SECONDS", 0.2)
    service = await serve(DATABASE_URL=through_network)
    before = await ask_in_turn(service, questions=3, name="Before")

    network.cut()
    during = [(question, await service.chat(question)) for question in ("Cut 1", "Cut 2", "Cut 3")]
    await network.restore()
    after = await ask_in_turn(service, questions=3, name="After")

    assert_answered(before)
    assert_database_errors(during)
    assert_answered(after)
    await assert_rows_add_up(service.tables, [*before, *during, *after])


@pytest.mark.slow
async def test_connections_that_are_reset_under_load_lose_no_message(
    serve: Serve, network: TcpProxy, through_network: str
) -> None:
    service = await serve(DATABASE_URL=through_network)

    async with reading(service, readers=20) as readers:
        for _ in range(5):
            await readers.go_on(turns=20)
            network.cut()
            await network.restore()
        await readers.go_on(turns=20)

    assert_database_errors(readers.failures)
    assert len(readers.failures) <= len(readers.turns) // 10
    await assert_rows_add_up(service.tables, readers.turns)


@pytest.mark.slow
async def test_a_network_that_swallows_everything_fails_turns_in_time_and_only_while_it_does(
    serve: Serve, network: TcpProxy, through_network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.database.COMMAND_TIMEOUT_SECONDS", 2.0)
    monkeypatch.setattr("app.database.POOL_TIMEOUT_SECONDS", 5.0)
    service = await serve(DATABASE_URL=through_network.replace("connect_timeout=20", "connect_timeout=2"))
    before = await ask_in_turn(service, questions=3, name="Before")

    network.blackhole()
    async with asyncio.timeout(PATIENCE_SECONDS):
        during = await ask_at_once(service, questions=20)
    await network.restore()
    after = await ask_in_turn(service, questions=10, name="After")

    assert_answered(before)
    assert_database_errors(during)
    assert_answered(after)
    await assert_rows_add_up(service.tables, [*before, *during, *after])


@pytest.mark.slow
async def test_a_connection_that_timed_out_is_not_used_again(
    serve: Serve, network: TcpProxy, through_network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.database.COMMAND_TIMEOUT_SECONDS", 2.0)
    service = await serve(DATABASE_URL=through_network, DATABASE_POOL_SIZE="1")
    before = await ask_in_turn(service, questions=1, name="Before")

    network.silence()
    silent: list[Asked] = [("In the silence", await service.chat("In the silence"))]
    after = await ask_in_turn(service, questions=3, name="After")

    assert_answered([*before, *after])
    assert_database_errors(silent)
    await assert_rows_add_up(service.tables, [*before, *silent, *after])


@pytest.mark.parametrize("write", [b"assistant", b"What is a robot?"], ids=["the reply", "the question"])
async def test_a_write_whose_acknowledgement_is_lost_is_there_once(
    serve: Serve, network: TcpProxy, through_network: str, write: bytes
) -> None:
    service = await serve(DATABASE_URL=through_network, DATABASE_POOL_SIZE="1")
    before = await ask_in_turn(service, questions=1, name="Before")
    network.lose_answer_to(write)

    turn = ("What is a robot?", await service.chat("What is a robot?"))

    assert network.lost == 1
    assert_answered([turn])
    await assert_rows_add_up(service.tables, [*before, turn])


@pytest.mark.parametrize("answer", [b"INSERT 0 1", b"UPDATE 1"], ids=["the claim", "taking over"])
async def test_a_claim_whose_acknowledgement_is_lost_is_still_ours(
    serve: Serve, network: TcpProxy, through_network: str, model_server: FakeOpenAI, answer: bytes
) -> None:
    service = await serve(DATABASE_URL=through_network, DATABASE_POOL_SIZE="1")
    service.client.headers["Idempotency-Key"] = str(uuid.uuid4())
    if answer == b"UPDATE 1":
        model_server.enqueue(failure(500))
        assert (await service.chat("Why?")).status_code == 500
    network.lose_answer(answer)

    response = await service.chat("Why?")

    assert network.lost == 1
    assert response.status_code == 200
    assert len(await service.tables.messages()) == 2


async def test_a_deletion_whose_acknowledgement_is_lost_has_been_made(
    serve: Serve, network: TcpProxy, through_network: str
) -> None:
    service = await serve(DATABASE_URL=through_network, DATABASE_POOL_SIZE="1")
    session_id = (await service.chat("Why?")).json()["session_id"]
    network.lose_answer(b"DELETE 1")

    response = await service.client.delete(f"/chat/{session_id}")

    assert network.lost == 1
    assert response.status_code == 204
    assert await service.tables.sessions() == []


@pytest.mark.slow
async def test_a_column_changes_its_type_under_the_prepared_statements_of_direct_connections(
    serve: Serve, admin: asyncpg.Connection
) -> None:
    service = await serve()

    async with reading(service, readers=10) as readers:
        for kind in ("varchar", "text", "varchar", "text"):
            await readers.go_on(turns=20)
            await admin.execute(f"ALTER TABLE messages ALTER COLUMN content TYPE {kind}")
        await readers.go_on(turns=20)

    assert readers.failures == []
    await assert_rows_add_up(service.tables, readers.turns)


@pytest.mark.parametrize("limit", [3, 1])
async def test_a_turn_that_can_have_no_new_connection_waits_for_an_open_one(
    serve: Serve, server: OwnPostgresServer, admin: asyncpg.Connection, limit: int
) -> None:
    service = await serve(DATABASE_URL=await limited(server, admin, connections=limit))

    turns = await ask_at_once(service, questions=15)
    again = await ask_in_turn(service, questions=3, name="Again")

    assert_answered([*turns, *again])
    await assert_rows_add_up(service.tables, [*turns, *again])


async def test_the_places_that_a_server_refused_are_taken_once_it_allows_more(
    server: OwnPostgresServer, admin: asyncpg.Connection
) -> None:
    url = await limited(server, admin, connections=1)
    database = Database(dsn.parse(url), pool_size=5)

    async def run_at_once(statement: str, count: int = 5) -> None:
        await asyncio.gather(*(database.execute((text(statement), {})) for _ in range(count)))

    async def all_are_open() -> bool:
        return bool(
            await admin.fetchval("SELECT count(*) = 5 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        )

    await run_at_once("SELECT pg_sleep(0.02)", count=25)
    await admin.execute(f"ALTER ROLE {make_url(url).username} CONNECTION LIMIT 5")
    await admin.execute("SELECT pg_advisory_lock(1)")
    waiting = asyncio.create_task(run_at_once("SELECT pg_advisory_xact_lock_shared(1)"))
    await eventually(all_are_open)
    await admin.execute("SELECT pg_advisory_unlock(1)")

    await waiting
    await database.close()


async def limited(server: OwnPostgresServer, admin: asyncpg.Connection, *, connections: int) -> str:
    """Return the connection string of a new role that may have so many connections."""
    role = f"few_{uuid.uuid4().hex}"
    await admin.execute(
        f"CREATE ROLE {role} LOGIN CONNECTION LIMIT {connections} IN ROLE pg_read_all_data, pg_write_all_data"
    )
    return server.url().replace("postgres@", f"{role}@")


@pytest.mark.slow
@pytest.mark.parametrize("limit", [2, 3, 5])
async def test_two_instances_share_what_the_server_allows_when_both_are_busy(
    serve: Serve, server: OwnPostgresServer, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr("app.database.POOL_TIMEOUT_SECONDS", stretched(POOL_TIMEOUT_SECONDS))
    url = await limited(server, admin, connections=limit)
    service = await serve(DATABASE_URL=url)

    async with reading(service, readers=20) as first:
        await first.go_on(turns=100)
        late_service = await serve(DATABASE_URL=url)
        async with reading(late_service, readers=20, name="Late reader") as second:
            await second.go_on(turns=100)

    assert first.failures == []
    assert second.failures == []
    await assert_rows_add_up(service.tables, [*first.turns, *second.turns])


@pytest.mark.slow
async def test_an_idle_instance_leaves_connections_to_one_that_has_none(
    serve: Serve, server: OwnPostgresServer, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.database.POOL_TIMEOUT_SECONDS", stretched(POOL_TIMEOUT_SECONDS))
    url = await limited(server, admin, connections=4)
    idle = await serve(DATABASE_URL=url, DATABASE_POOL_SIZE="4")
    turns = await ask_at_once(idle, questions=15)

    service = await serve(DATABASE_URL=url)
    turns += await ask_in_turn(service, questions=2, name="Who comes later")

    assert_answered(turns)
    await assert_rows_add_up(service.tables, turns)


@pytest.mark.slow
async def test_a_turn_takes_an_open_connection_rather_than_the_place_of_a_closed_one(
    serve: Serve, network: TcpProxy, through_network: str, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the unused connections is closed after a time-out, and the server gives no new one."""
    monkeypatch.setattr("app.database.COMMAND_TIMEOUT_SECONDS", 2.0)
    monkeypatch.setattr("app.pool.SPARE_SECONDS", 60)
    service = await serve(DATABASE_URL=through_network)
    network.delay = 0.1  # No turn gets to use another one's connection.
    before = await ask_at_once(service, questions=5)
    network.delay = 0.0
    async with admin.transaction():
        await admin.execute("LOCK TABLE messages")
        locked = [("While the table is locked", await service.chat("While the table is locked"))]
    network.refuse()

    after = await ask_in_turn(service, questions=5, name="After")

    assert_answered([*before, *after])
    assert_database_errors(locked)
    await assert_rows_add_up(service.tables, [*before, *locked, *after])


@pytest.mark.slow
async def test_an_unused_connection_is_kept_but_spare_ones_are_closed(
    serve: Serve, admin: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.pool.SPARE_SECONDS", 0.2)
    service = await serve()
    turns = await ask_at_once(service, questions=30)

    async def only_one_is_left() -> bool:
        return len(await pids(admin)) == 1

    await eventually(only_one_is_left)
    [kept] = await pids(admin)
    turns += await ask_in_turn(service, questions=2, name="Later")

    assert_answered(turns)
    assert await pids(admin) == {kept}


@pytest.mark.slow
async def test_connections_to_a_server_that_only_reads_since_a_failover_are_replaced(
    serve: Serve, server: OwnPostgresServer, network: TcpProxy, through_network: str, admin: asyncpg.Connection
) -> None:
    service = await serve(DATABASE_URL=through_network)
    network.delay = 0.02  # The reads below do not wait for each other's connections.
    async with demoted(admin):
        reads = await asyncio.gather(*(service.client.get(f"/chat/{uuid.uuid4()}/messages") for _ in range(20)))
    network.delay = 0.0
    assert {response.status_code for response in reads} == {404}
    only_reading = network.accepted  # The check at the start can have had some replaced already.

    after = await ask_at_once(service, questions=20)

    assert_answered(after)
    assert network.accepted > only_reading
    await assert_rows_add_up(service.tables, after)


@pytest.mark.slow
async def test_a_server_that_only_reads_fails_turns_only_while_it_does(serve: Serve, admin: asyncpg.Connection) -> None:
    service = await serve()
    async with demoted(admin):
        refused = [("Nobody can write yet", await service.chat("Nobody can write yet"))]
    answered = await ask_in_turn(service, questions=5, name="Now they can")

    assert_database_errors(refused)
    assert_answered(answered)
    # The question may have been recorded, on a connection from before.
    await assert_rows_add_up(service.tables, [*refused, *answered])


@asynccontextmanager
async def demoted(admin: asyncpg.Connection) -> AsyncIterator[None]:
    """Have the connections that are opened meanwhile only read, for as long as they stay open."""
    await admin.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
    try:
        yield
    finally:
        await admin.execute("SET default_transaction_read_only = off")
        await admin.execute("ALTER DATABASE postgres RESET default_transaction_read_only")


@pytest.mark.slow
async def test_connections_are_few_and_are_closed_at_shutdown(
    monkeypatch: pytest.MonkeyPatch, admin: asyncpg.Connection, database_url: str, model_server: FakeOpenAI
) -> None:
    for name, value in {
        "DATABASE_URL": database_url,
        "DATABASE_POOL_SIZE": "3",
        "OPENAI_API_KEY": API_KEY,
        "OPENAI_BASE_URL": model_server.url,
    }.items():
        monkeypatch.setenv(name, value)

    seen = []
    with redirect_stdout(io.StringIO()):
        async with running_service() as url, httpx2.AsyncClient(base_url=url, timeout=PATIENCE_SECONDS) as client:
            asking = asyncio.gather(*[client.post("/chat", json={"message": "Hello"}) for _ in range(60)])
            while not asking.done():
                seen.append(len(await pids(admin)))
            responses = await asking
            seen.append(len(await pids(admin)))

    async def closed() -> bool:
        return not await pids(admin)

    assert [response.status_code for response in responses] == [200] * 60
    assert max(seen) == 3
    await eventually(closed)


@pytest.mark.slow
async def test_connections_on_which_nothing_moves_any_more_do_not_hold_up_the_stop(
    network: TcpProxy, through_network: str
) -> None:
    database = Database(dsn.parse(through_network), pool_size=5)
    network.delay = 0.1  # No statement gets to use another one's connection.
    await asyncio.gather(*(database.is_migrated() for _ in range(5)))
    assert network.accepted == 5

    network.blackhole()
    async with asyncio.timeout(stretched(5)):
        await database.close()


async def test_a_turn_on_a_warm_direct_connection_takes_three_round_trips_two_of_them_awaited(
    serve: Serve, network: TcpProxy, through_network: str, model_server: FakeOpenAI
) -> None:
    service = await serve(DATABASE_URL=through_network, DATABASE_POOL_SIZE="1")
    [*_, (_, warm)] = await ask_in_turn(service, questions=3, name="Warm-up")
    network.flights.clear()
    may_answer = asyncio.Event()
    model_server.enqueue(held(may_answer))

    asking = asyncio.create_task(service.chat("And now?", session_id=warm.json()["session_id"]))

    async def question_is_recorded() -> bool:
        return len(network.flights) > 1

    await eventually(question_is_recorded)
    before_the_answer = list(network.flights)
    may_answer.set()
    response = await asking

    assert response.status_code == 200
    assert len(before_the_answer) == 2, (
        "the history is read in one round trip, and nothing checks the connection before"
    )
    assert b"And now?" in before_the_answer[1], "nobody waits for the question to be written while the model thinks"
    assert len(network.flights) == 3, "the reply is written in one round trip"
    assert network.accepted == 1


async def test_a_new_connection_asks_the_server_about_no_type(
    serve: Serve, server: OwnPostgresServer, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def connect(*args: Any, **kwargs: Any) -> Any:
        connection = await asyncpg_connect(*args, **kwargs)
        connection.add_query_logger(lambda record: asked.append(record.query))
        return connection

    asyncpg_connect = asyncpg.connect
    monkeypatch.setattr(asyncpg, "connect", connect)
    service = await serve(DATABASE_URL=database_url)

    session_id = (await service.chat()).json()["session_id"]
    await service.chat(session_id=session_id)
    history = await service.client.get(f"/chat/{session_id}/messages")
    answer = history.json()["data"][1]["id"]
    regenerated = await service.client.post(f"/chat/{session_id}/messages/{answer}/regenerate")

    assert (history.status_code, regenerated.status_code) == (200, 200)
    assert [query for query in asked if "typeinfo" in query] == []
    connection = await connect(server.url())
    await connection.fetch("SELECT role FROM messages")
    await connection.close()
    assert any("typeinfo" in query for query in asked), "this is how it would show"
