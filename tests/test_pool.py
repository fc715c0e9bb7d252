"""How connections are opened and waited for, without a server: what it says, and when, is made up."""

import socket
import ssl
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from app import pool
from app.pool import Connector, RefusedError, is_refusal


class FakeServer:
    """A server that answers each attempt to connect with the next outcome, at a time that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.outcomes: list[BaseException | None] = []
        self.waits: list[float] = []
        self.passing = 0.0
        """How much time passes with each wait."""

    async def connect(self) -> "FakeConnection":
        if outcome := self.outcomes.pop(0):
            raise outcome
        return FakeConnection()

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += self.passing


class FakeConnection:
    """An open connection."""

    def __init__(self) -> None:
        self.is_open = True

    def is_closed(self) -> bool:
        return not self.is_open


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    server = FakeServer()
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: server.now))
    monkeypatch.setattr(pool, "asyncio", SimpleNamespace(sleep=server.sleep))
    monkeypatch.setattr("app.pool.asyncpg.connect", server.connect)
    return server


REFUSED = ConnectionRefusedError()


async def test_a_database_that_wakes_up_is_waited_for_each_time(server: FakeServer) -> None:
    connector = Connector()
    server.passing = 0.4 * pool.WAKE_SECONDS
    for _ in range(2):
        server.outcomes = [REFUSED, REFUSED, None]
        connection = await connector.connect()
        connection.is_open = False
        server.now += server.passing

    assert server.waits == [pool.REFUSAL_SECONDS] * 4
    assert server.outcomes == []


async def test_a_database_that_stays_away_is_waited_for_once(server: FakeServer) -> None:
    connector = Connector()
    server.outcomes, server.passing = [REFUSED] * 3, pool.WAKE_SECONDS
    for attempts_left in (1, 0):
        with pytest.raises(ConnectionRefusedError):
            await connector.connect()
        assert len(server.outcomes) == attempts_left


async def test_a_password_that_is_refused_is_tried_less_often(server: FakeServer) -> None:
    server.outcomes = [asyncpg.InvalidPasswordError(), None]

    await Connector().connect()

    assert server.waits == [pool.WRONG_PASSWORD_SECONDS]


async def test_who_has_a_connection_does_not_wait_for_another(server: FakeServer) -> None:
    connector = Connector()
    server.outcomes = [None, REFUSED, REFUSED]
    first = await connector.connect()

    with pytest.raises(RefusedError):
        await connector.connect()

    assert server.waits == []
    assert not first.is_closed()


@pytest.mark.parametrize(
    ("limit", "is_full", "seconds", "left"),
    [
        (2, False, 2.0, 1),  # It can have no more.
        (2, False, 1.9, 0),  # It has just opened one.
        (5, False, 2.0, 0),  # It could have more.
        (5, True, 2.0, 1),  # The server has no more.
        (1, True, 2.0, 0),  # It would have none.
    ],
)
async def test_a_process_that_can_have_no_more_connections_leaves_one_to_others(
    server: FakeServer, *, limit: int, is_full: bool, seconds: float, left: int
) -> None:
    connector = Connector(limit=limit)
    server.outcomes = [*[None] * min(limit, 2), REFUSED]
    connections = [await connector.connect() for _ in range(min(limit, 2))]
    if is_full:
        with pytest.raises(RefusedError):
            await connector.connect()
    server.now += seconds
    given_up: list[str] = []
    record: Any = SimpleNamespace(invalidate=lambda: given_up.append("given up"))

    for _ in range(2):
        connector.give_up(None, record)

    assert len(given_up) == left
    assert not any(connection.is_closed() for connection in connections)
    if left:
        # Others may take it first.
        with pytest.raises(RefusedError):
            await connector.connect()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError("no"), True),
        (ConnectionResetError("no"), True),
        (TimeoutError("no"), False),
        (socket.gaierror("no"), False),
        (ssl.SSLCertVerificationError("no"), False),
        (asyncpg.CannotConnectNowError("no"), True),
        (asyncpg.TooManyConnectionsError("no"), True),
        (asyncpg.InvalidPasswordError("no"), True),
        (asyncpg.AdminShutdownError("no"), True),
        (asyncpg.ConnectionDoesNotExistError("no"), True),
        (asyncpg.InvalidCatalogNameError("no"), False),
        (asyncpg.InvalidAuthorizationSpecificationError("no"), False),
        (asyncpg.InternalServerError("no"), False),
        (asyncpg.InternalServerError("MaxClientsInSessionMode: max clients reached"), True),
        (asyncpg.ProtocolViolationError("no more connections allowed (max_client_conn)"), True),
    ],
    ids=repr,
)
def test_what_may_pass_is_waited_for(error: Exception, *, expected: bool) -> None:
    assert is_refusal(error) is expected
