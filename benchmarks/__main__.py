"""Measure the service against the floor, and print a table."""

import asyncio
import logging
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg

from app.database import Database
from benchmarks.ingest import build_site, run_ingest
from benchmarks.load import Client, closed_loop
from benchmarks.plot import draw, percentile_95
from benchmarks.search import median_ms, search_seconds, store_book
from benchmarks.search import settings as search_settings
from benchmarks.servers import ROOT, Server, SlowProxy, model_server, serving
from tests.conftest import migrate
from tests.postgres import postgres_server

ROUNDS = 5
CONCURRENCIES = (1, 50, 100, 200, 300, 400, 500, 600)
LATENCY_PLOT = ROOT / "docs" / "latency.png"
ROUND_TRIP_SECONDS = 0.02


@dataclass(frozen=True)
class Figure:
    """A row of the table."""

    what: str
    value: str
    target: str


class Bench:
    """What all measurements share: the model, the database, and a slow network between service and database."""

    def __init__(self, model_url: str, database_url: str, database: asyncpg.Connection, proxy: SlowProxy) -> None:
        self.model_url = model_url
        self.database_url = database_url
        self.database = database
        self.proxy = proxy

    @asynccontextmanager
    async def service(self, *, workers: int = 1, **settings: str) -> AsyncIterator[Server]:
        """Serve the service."""
        settings = {"DATABASE_URL": self.database_url, **settings}
        async with serving("app", self.model_url, workers=workers, **settings) as server:
            yield server

    @asynccontextmanager
    async def floor(self) -> AsyncIterator[Server]:
        """Serve the floor."""
        async with serving("benchmarks.floor", self.model_url) as server:
            yield server

    async def sessions(self, count: int, messages: int = 10) -> list[str]:
        """Create sessions with this many messages of history each, and return their ids."""
        ids = [uuid.uuid4() for _ in range(count)]
        await self.database.execute(
            "INSERT INTO chat_sessions (id, created_at, updated_at) SELECT id, now(), now() FROM unnest($1::uuid[]) AS id",
            ids,
        )
        await self.database.execute(
            """
            INSERT INTO messages (id, session_id, role, content, created_at, reply_to)
            SELECT md5(session_id::text || n)::uuid, session_id,
                   (CASE WHEN n % 2 = 1 THEN 'user' ELSE 'assistant' END)::message_role_enum,
                   repeat('How does a humanoid robot keep its balance? ', 5), now() - interval '1 day' + n * interval '1 ms',
                   CASE WHEN n % 2 = 0 THEN md5(session_id::text || n - 1)::uuid END
            FROM unnest($1::uuid[]) AS session_id, generate_series(1, $2::int) AS n
            """,
            ids,
            messages,
        )
        return [str(session_id) for session_id in ids]


def question(delay_ms: int = 0, session_id: str | None = None) -> dict[str, Any]:
    """Return a request whose answer the model delays by this time."""
    return {"message": f"{delay_ms} How does it keep its balance?", "session_id": session_id}


def medians(rounds: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Return the median of the rounds' ratios, and those of their first and second values."""
    firsts, seconds = zip(*rounds, strict=True)
    return statistics.median(a / b for a, b in rounds), statistics.median(firsts), statistics.median(seconds)


async def cpu_per_turn(bench: Bench) -> list[Figure]:
    """Compare the CPU time of a turn with history to the floor's, in alternating rounds."""
    requests = 100
    sessions = await bench.sessions(requests)
    async with bench.service() as service, bench.floor() as floor:

        async def cost(server: Server) -> float:
            before = server.cpu_seconds()
            await closed_loop(server.port, [question(session_id=session) for session in sessions], clients=4)
            return (server.cpu_seconds() - before) / requests

        await cost(service), await cost(floor)  # Warm both up.
        costs = [(await cost(service), await cost(floor)) for _ in range(25)]
    ratio, of_service, of_floor = medians(costs)
    value = f"{ratio:.2f} ({of_service * 1000:.2f} ms ÷ {of_floor * 1000:.2f} ms)"
    return [Figure("CPU time of a turn with ten messages of history ÷ the floor's", value, "≤ 1.4")]


async def round_trips(bench: Bench, *, pooled: bool) -> list[Figure]:
    """Count the round trips that a reader waits for: how much longer a turn is if each round trip takes 20 ms."""
    url = bench.database_url.replace(
        f":{bench.database_url.rpartition(':')[2].partition('/')[0]}/", f":{bench.proxy.port}/"
    )
    [session] = await bench.sessions(1)
    figures = []
    async with bench.proxy.relaying(), bench.service(DATABASE_URL=url, DATABASE_POOLED=str(pooled)) as service:
        for what, body, target in (
            ("existing session", question(200, session), "≤ 4.5" if pooled else "≤ 2.5"),
            ("new session", question(200), "≤ 2.5" if pooled else "≤ 1.5"),
        ):
            medians = []
            for seconds in (0.0, ROUND_TRIP_SECONDS):
                bench.proxy.round_trip_seconds = seconds
                await closed_loop(service.port, [body] * 3, clients=1)
                medians.append(statistics.median(await closed_loop(service.port, [body] * 15, clients=1)))
            bench.proxy.round_trip_seconds = 0.0
            added = (medians[1] - medians[0]) / ROUND_TRIP_SECONDS
            where = "through a pooler" if pooled else "on a direct connection"
            figures.append(Figure(f"Round trips waited for, {what}, {where}", f"{added:.2f}", target))
    return figures


async def many_at_once(bench: Bench) -> list[Figure]:
    """Time 150 readers who start one after another, and 300 who start together; the model takes two seconds."""
    sessions = await bench.sessions(450)
    async with bench.service() as service:
        spread = await closed_loop(
            service.port, [question(2000, session) for session in sessions], clients=150, spread=2.0
        )
        burst = await closed_loop(service.port, [question(2000, session) for session in sessions[:300]], clients=300)
    return [
        Figure(
            "150 turns at once, spread evenly: p95 ÷ the model's own time", f"{percentile_95(spread) / 2:.2f}", "≤ 1.15"
        ),
        Figure("300 turns in one moment", f"no failure, p95 {percentile_95(burst):.2f} s", "no failure"),
    ]


async def first_piece(bench: Bench) -> list[Figure]:
    """Compare the time from the model's first piece to the reader's with the floor's."""
    sessions = await bench.sessions(150)
    async with bench.service() as service, bench.floor() as floor:
        clients = Client(service.port), Client(floor.port)
        # The servers alternate with each request, so that other work on the machine slows both.
        pairs = [
            [await client.first_piece("/chat/stream", question(20, session)) for client in clients]
            for session in sessions * 2
        ]
        for client in clients:
            client.close()
    of_service, of_floor = (percentile_95(list(times)) for times in zip(*pairs[len(sessions) :], strict=True))
    value = f"{of_service / of_floor:.2f} ({of_service * 1000:.2f} ms ÷ {of_floor * 1000:.2f} ms)"
    return [Figure("First streamed piece after the model's: p95 ÷ the floor's", value, "≤ 1.1")]


async def cold_start(bench: Bench) -> list[Figure]:
    """Compare the time from process start to first answer with the time to import the libraries alone."""
    imports = [sys.executable, "-c", "import fastapi, openai, sqlmodel, asyncpg"]
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        subprocess.run(imports, check=True, cwd=ROOT)  # noqa: ASYNC221  # Nothing else may run meanwhile.
        of_imports = time.perf_counter() - started
        async with bench.service() as service:
            times.append((service.seconds_to_answer, of_imports))
    ratio, of_service, of_imports = medians(times)
    value = f"{ratio:.2f} ({of_service:.2f} s ÷ {of_imports:.2f} s)"
    return [Figure("Process start to first answer ÷ importing the libraries", value, "≤ 1.3")]


async def memory(bench: Bench) -> list[Figure]:
    """Measure the memory after 2,000 and after 10,000 turns."""
    sessions = await bench.sessions(500)
    async with bench.service() as service:
        turns = [question(session_id=session) for session in sessions]
        await closed_loop(service.port, turns * 4, clients=8)
        early = service.resident_mib()
        await closed_loop(service.port, turns * 16, clients=8)
        late = service.resident_mib()
    return [
        Figure(
            "Resident memory after 10,000 turns (after 2,000)", f"{late:.0f} MiB ({early:.0f} MiB)", "≤ 110 MiB, flat"
        )
    ]


async def long_session(bench: Bench) -> list[Figure]:
    """Compare a turn in a session of 100,000 messages, among a million, with one in a session of ten."""
    [short], [long] = await bench.sessions(1), await bench.sessions(1, messages=100_000)
    await bench.sessions(90, messages=10_000)
    await bench.database.execute("ANALYZE")
    ratios = []
    async with bench.service() as service:
        for _ in range(ROUNDS * 2):
            of_long, of_short = [
                statistics.median(await closed_loop(service.port, [question(session_id=session)] * 40, clients=1))
                for session in (long, short)
            ]
            ratios.append(of_long / of_short)
    value = f"{statistics.median(ratios[1:]):.2f}"
    return [Figure("A turn in a session of 100,000 messages ÷ one in a session of ten", value, "≤ 1.1")]


async def latency(bench: Bench) -> list[Figure]:
    """Plot how long turns in existing sessions take, by how many run at the same time; the model takes a second."""
    model_seconds = 1.0
    sessions = await bench.sessions(CONCURRENCIES[-1])
    seconds: dict[str, list[list[float]]] = {"service": [], "floor": []}
    async with bench.service() as service, bench.floor() as floor:
        for clients in CONCURRENCIES:
            bodies = [question(int(model_seconds * 1000), session) for session in sessions[:clients]] * 2
            for name, server in (("service", service), ("floor", floor)):
                seconds[name].append(await closed_loop(server.port, bodies, clients=clients, spread=model_seconds))
    draw(LATENCY_PLOT, CONCURRENCIES, seconds, model_seconds=model_seconds)
    of_service, of_floor = (statistics.median(seconds[name][-1]) for name in ("service", "floor"))
    value = f"{of_service / of_floor:.2f} ({of_service:.2f} s ÷ {of_floor:.2f} s)"
    return [Figure(f"Median of {CONCURRENCIES[-1]} turns at once, model of 1 s ÷ the floor's", value, "report")]


async def workers(bench: Bench) -> list[Figure]:
    """Compare the throughput of two workers with that of one, for more readers than one can serve."""
    readers = 200
    sessions = await bench.sessions(readers * 10)
    rates = []
    for count in (1, 2):
        async with bench.service(workers=count) as service:
            bodies = [question(200, session) for session in sessions]
            started = time.perf_counter()
            await closed_loop(service.port, bodies, clients=readers)
            rates.append(len(bodies) / (time.perf_counter() - started))
    value = f"{rates[1] / rates[0]:.2f} ({rates[1]:.0f} ÷ {rates[0]:.0f} turns a second)"
    return [Figure(f"Throughput of two workers ÷ one, {readers} readers, model of 200 ms", value, "report")]


async def search(bench: Bench) -> list[Figure]:
    """Time the search of books of 500 and of 5,000 chunks; each question is a follow-up, and embedded already."""
    figures = []
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # The migrations let everything be logged.
    with tempfile.TemporaryDirectory() as folder:
        for kind, targets in (("PostgreSQL", {500: 15, 5_000: 80}), ("SQLite", {500: 10, 5_000: None})):
            for chunks, target in targets.items():
                url = f"sqlite:///{folder}/{chunks}.db"
                if kind == "PostgreSQL":
                    await bench.database.execute(f"CREATE DATABASE book_{chunks}")
                    url = f"{bench.database_url.rpartition('/')[0]}/book_{chunks}"
                await asyncio.to_thread(migrate, url)
                configured = search_settings(url, bench.model_url)
                database = Database(configured.database, pool_size=2)
                await store_book(database, configured, chunks)
                seconds = await search_seconds(database, configured)
                await database.close()
                what = f"Search of {chunks:,} chunks by words and meaning, on {kind}"
                value = f"{median_ms(seconds):.1f} ms, p95 {percentile_95(seconds) * 1000:.1f} ms"
                figures.append(Figure(what, value, f"≤ {target} ms" if target else "report"))
    return figures


async def ingest(bench: Bench) -> list[Figure]:
    """Time the reading in of a built site of 50,000 chunks, and of the same site again."""
    chunks = 50_000
    await bench.database.execute("CREATE DATABASE ingested")
    url = f"{bench.database_url.rpartition('/')[0]}/ingested"
    await asyncio.to_thread(migrate, url)
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        build_site(Path(folder), chunks)
        for what, target in (("", "≤ 300 s"), (" again, unchanged", "≤ 30 s")):
            run = await asyncio.to_thread(run_ingest, Path(folder), url, bench.model_url)
            value = f"{run.seconds:.0f} s, {run.cpu_seconds:.0f} s of CPU, {run.resident_mib:.0f} MiB"
            figures.append(Figure(f"Reading in a built site of {chunks:,} chunks{what}", value, target))
    return figures


MEASUREMENTS: dict[str, Callable[[Bench], Awaitable[list[Figure]]]] = {
    "cpu": cpu_per_turn,
    "trips": partial(round_trips, pooled=False),
    "pooled": partial(round_trips, pooled=True),
    "many": many_at_once,
    "first": first_piece,
    "start": cold_start,
    "memory": memory,
    "long": long_session,
    "latency": latency,
    "workers": workers,
    "search": search,
    "ingest": ingest,
}


async def main(names: list[str]) -> None:
    """Start the database and the model, run the named measurements or all, and print each figure when it is known."""
    with postgres_server() as postgres:
        await asyncio.to_thread(migrate, postgres.url())
        async with model_server() as model_url:
            database = await asyncpg.connect(postgres.url())
            bench = Bench(model_url, postgres.url(), database, SlowProxy(postgres.port))
            print("| figure | measured | target |\n|---|---|---|")
            for name in names or MEASUREMENTS:
                for figure in await MEASUREMENTS[name](bench):
                    print(f"| {figure.what} | {figure.value} | {figure.target} |", flush=True)
            await database.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
