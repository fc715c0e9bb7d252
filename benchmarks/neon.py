"""What a pooler, a distant database and an outage cost: `uv run python -m benchmarks.neon` prints a table.

Everything runs on this machine: the service, a fake model that answers at once, PostgreSQL from the wheel, PgBouncer in
transaction mode with TLS where it is installed (else the tests' stand-in), and a proxy that counts round trips.
"""

import asyncio
import contextlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import httpx2
from rich.console import Console
from rich.table import Table
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app import database, dsn
from tests.conftest import Service, Tables, migrate, running_service
from tests.fake_openai import FakeOpenAI
from tests.load import ask_at_once, assert_rows_add_up
from tests.pooler import PGBOUNCER, Front, TcpProxy, TlsPooler, pgbouncer
from tests.postgres import OwnPostgresServer, postgres_server

ROUND_TRIP_SECONDS = 0.02
WRITERS = 50
OUTAGES = 5
DATABASE = "postgres"

type Rows = list[tuple[str, str]]


@asynccontextmanager
async def serving(url: str, server: OwnPostgresServer, **environment: str) -> AsyncIterator[Service]:
    """Run the service with this connection string, on empty tables."""
    parsed = dsn.parse(server.url(DATABASE))
    engine = create_async_engine(parsed.url, connect_args=parsed.connect_args, poolclass=NullPool)
    tables = Tables(engine)
    await tables.clear()
    stdout = io.StringIO()
    async with FakeOpenAI().serve() as model:
        variables = {"DATABASE_URL": url, "OPENAI_API_KEY": "sk-benchmark", "OPENAI_BASE_URL": model.url, **environment}
        with patch.dict(os.environ, variables), contextlib.redirect_stdout(stdout):
            async with running_service() as address, httpx2.AsyncClient(base_url=address, timeout=60) as client:
                yield Service(client, tables, stdout)
    await engine.dispose()


@asynccontextmanager
async def front_of(server: OwnPostgresServer) -> AsyncIterator[Front]:
    """Put a pooler before the server."""
    if PGBOUNCER is not None:
        with pgbouncer(server.port) as pooler:
            yield pooler
    else:
        with tempfile.TemporaryDirectory() as folder:
            async with TlsPooler(Path(folder), server.port).serve() as stand_in:
                yield stand_in


async def ask(service: Service, session_id: str | None) -> str:
    """Take one turn, and return its session."""
    response = await service.chat("What is a robot?", **({"session_id": session_id} if session_id else {}))
    response.raise_for_status()
    answered: str = response.json()["session_id"]
    return answered


async def measure_writers(server: OwnPostgresServer) -> Rows:
    """Have fifty readers ask at once, from two instances, through five connections."""
    async with AsyncExitStack() as stack:
        pooler = await stack.enter_async_context(front_of(server))
        url = pooler.url(DATABASE, sslmode="require")
        services = [await stack.enter_async_context(serving(url, server, DATABASE_POOLED="true")) for _ in range(2)]
        started = time.perf_counter()
        turns = await ask_at_once(*services, questions=WRITERS // 2)
        seconds = time.perf_counter() - started
        await assert_rows_add_up(services[0].tables, turns)
        answered = sum(response.status_code == httpx2.codes.OK for _, response in turns)
        rows = len(await services[0].tables.messages())
    return [
        (f"{WRITERS} writers at once, 2 instances, {type(pooler).__name__}: answered", f"{answered} of {WRITERS}"),
        ("… messages written", f"{rows} of {2 * WRITERS}"),
        ("… time for all of them", f"{seconds * 1000:.0f} ms"),
    ]


async def measure_round_trips(server: OwnPostgresServer, *, pooled: bool) -> Rows:
    """Count the round trips of a turn on a warm connection, and time it with a distant database."""
    async with AsyncExitStack() as stack:
        port = server.port
        way, parameters = "direct", {"sslmode": "disable"}
        url = server.url(DATABASE)
        if pooled:
            front = await stack.enter_async_context(front_of(server))
            port, way, parameters = front.port, "pooled", {"sslmode": "require"}
            url = front.url(DATABASE)
        network = await stack.enter_async_context(TcpProxy(port).serve())
        url = url.partition("?")[0].replace(str(port), str(network.port)) + f"?sslmode={parameters['sslmode']}"
        # One connection, so that every turn finds it warm.
        environment = {"DATABASE_POOLED": str(pooled).lower(), "DATABASE_POOL_SIZE": "1"}
        service = await stack.enter_async_context(serving(url, server, **environment))
        known = await ask(service, None)
        opening = len(network.flights)
        for _ in range(3):
            await ask(service, known)
        figures = [(f"round trips of the first turn of all, {way}, with the connection's set-up", str(opening))]
        for kind, session_id in (("new", None), ("known", known)):
            network.flights.clear()
            await ask(service, session_id)
            figures.append((f"round trips per turn in a {kind} session, {way}", str(len(network.flights))))
        network.delay = ROUND_TRIP_SECONDS
        for kind, session_id in (("new", None), ("known", known)):
            milliseconds = await timed(partial(ask, service, session_id))
            label = f"turn in a {kind} session, {way}, {ROUND_TRIP_SECONDS * 1000:.0f} ms per round trip"
            figures.append((label, f"{milliseconds:.0f} ms"))
    return figures


async def timed(action: Callable[[], Awaitable[object]]) -> float:
    """Return the median time in milliseconds."""
    times = []
    for _ in range(10):
        started = time.perf_counter()
        await action()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


async def measure_recovery(server: OwnPostgresServer) -> Rows:
    """Time the first turn after an outage, for readers who waited for it and for one who comes when it is over."""
    waited, came_later = [], []
    async with serving(server.url(DATABASE), server) as service:
        for _ in range(OUTAGES):
            await ask(service, None)
            await asyncio.to_thread(server.stop)
            waiting = asyncio.create_task(ask(service, None))
            await asyncio.to_thread(server.start)
            back = time.perf_counter()
            await waiting
            waited.append(time.perf_counter() - back)

            await asyncio.to_thread(server.stop)
            with patch.object(database, "WAKE_SECONDS", 0.0):
                failed = await service.chat()
            assert failed.json()["error"]["code"] == "database_error"  # The figure is for nothing else.
            await asyncio.to_thread(server.start)
            back = time.perf_counter()
            await ask(service, None)
            came_later.append(time.perf_counter() - back)
    return [
        (f"{name}, median and longest of {OUTAGES}", f"{statistics.median(x) * 1000:.0f} ms, {max(x) * 1000:.0f} ms")
        for name, x in (
            ("database back → answer of a turn that waited for it", waited),
            ("database back → answer of the first turn after a failed one", came_later),
        )
    ]


def main() -> None:
    """Measure everything and print the table."""
    table = Table("What", "Figure", title="Behind a pooler, far away, and after an outage")
    with postgres_server() as server:
        migrate(server.url(DATABASE))
        for rows in (
            asyncio.run(measure_writers(server)),
            asyncio.run(measure_round_trips(server, pooled=False)),
            asyncio.run(measure_round_trips(server, pooled=True)),
            asyncio.run(measure_recovery(server)),
        ):
            for row in rows:
                table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
