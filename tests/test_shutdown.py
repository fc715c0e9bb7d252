"""The process is stopped, or dies: `python -m app` as the platforms run it, on PostgreSQL."""

import asyncio
import os
import re
import signal
import subprocess
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx2
import pytest
from dirty_equals import IsStr, IsUUID
from sqlalchemy import make_url, text

from app.models import MessageRole
from tests import commands
from tests.bodies import OVERLOADED
from tests.conftest import API_KEY, Tables, eventually
from tests.events import Event, events_of
from tests.fake_openai import FakeOpenAI, completion, held, stall, stream
from tests.patience import PATIENCE_SECONDS, stretched

one_worker_or_slowly_two = pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
"""Two workers are three processes, each of which takes a second to start."""


class Program:
    """The running command; `output` is what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str], workers: int) -> None:
        self.workers = workers
        self.output = ""
        self._process = process
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                self.output += line

    @property
    def url(self) -> str:
        match = re.search(r"running on (http://127\.0\.0\.1:\d+)", self.output)
        return match[1] if match else ""

    @property
    def server_pids(self) -> list[int]:
        return [int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", self.output)]

    async def printed(self, line: str, times: int) -> None:
        async with asyncio.timeout(commands.TIMEOUT_SECONDS):
            while self.output.count(line) < times:
                assert self._process.poll() is None, self.output
                await asyncio.sleep(0.01)

    async def started(self) -> None:
        await self.printed("Application startup complete", self.workers)
        await self.printed("running on http", 1)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    async def stopping(self) -> None:
        """Wait until every process has begun to shut down."""
        await self.printed("Shutting down", self.workers)

    async def ended(self) -> int:
        """Wait for the end; returns the exit status."""
        return await asyncio.to_thread(self._process.wait, commands.TIMEOUT_SECONDS)

    def stop_every_process(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send the signal as terminals and some platforms do: to the command and to its workers alike."""
        for pid in {self._process.pid, *self.server_pids}:
            os.kill(pid, number)

    def kill(self) -> None:
        """End every process at once, as `kill -9` does."""
        if self._process.poll() is None:
            for pid in {self._process.pid, *self.server_pids}:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._reading.join()
        assert self._process.stdin is not None
        self._process.stdin.close()


type Start = Callable[..., Awaitable[Program]]


@pytest.fixture
async def start(postgres_url: str, model_server: FakeOpenAI, tmp_path: Path) -> AsyncIterator[Start]:
    """Start the command in production mode, with further environment variables; it is gone when the test ends."""
    programs: list[Program] = []

    async def start(workers: int = 1, **environment: str) -> Program:
        defaults = {
            "DATABASE_URL": postgres_url,
            "OPENAI_API_KEY": API_KEY,
            "OPENAI_BASE_URL": model_server.url,
            "OPENAI_MAX_RETRIES": "0",
            "HOST": "127.0.0.1",
            "PORT": "0",
            "WEB_CONCURRENCY": str(workers),
        }
        process = commands.start("-m", "app", folder=tmp_path, **{**defaults, **environment})
        programs.append(Program(process, workers))
        await programs[-1].started()
        return programs[-1]

    yield start
    for program in programs:
        await asyncio.to_thread(program.kill)


@pytest.fixture
def database_url(postgres_url: str) -> str:
    """The database of the commands, for `tables`."""
    return postgres_url


@asynccontextmanager
async def asking(program: Program, message: str, **headers: str) -> AsyncIterator["asyncio.Task[httpx2.Response]"]:
    """Ask on a connection of its own, which is given up when the block ends."""
    async with httpx2.AsyncClient(base_url=program.url, timeout=PATIENCE_SECONDS) as client:
        task = asyncio.create_task(client.post("/chat", json={"message": message}, headers=headers))
        yield task
        task.cancel()
        await asyncio.wait([task])


@asynccontextmanager
async def streaming(program: Program, message: str, **headers: str) -> AsyncIterator[AsyncIterator[Event]]:
    async with (
        httpx2.AsyncClient(base_url=program.url, timeout=PATIENCE_SECONDS) as client,
        client.stream("POST", "/chat/stream", json={"message": message}, headers=headers) as response,
    ):
        yield events_of(response)


async def refuses_connections(program: Program) -> bool:
    url = httpx2.URL(program.url)
    try:
        _, writer = await asyncio.open_connection(url.host, url.port)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


def new_key() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid.uuid4())}


@pytest.mark.slow
@one_worker_or_slowly_two
async def test_turns_in_flight_end_properly_within_the_grace(
    start: Start, tables: Tables, model_server: FakeOpenAI, workers: int
) -> None:
    program = await start(workers)
    gate = asyncio.Event()
    model_server.enqueue(held(gate), stream("It ", "walks.", gate=gate))

    async with asking(program, "Why?") as asked:
        await model_server.wait_for_requests(1)
        async with streaming(program, "How?") as events:
            opening = [await anext(events), await anext(events)]
            program.stop()
            await program.stopping()
            gate.set()
            ending = [event async for event in events]
        answer = await asked

    assert answer.status_code == 200
    assert opening == [("session", {"session_id": IsUUID(4)}), ("delta", {"text": "It "})]
    done = {
        "response": "It walks.",
        "timestamp": IsStr,
        "message_id": IsUUID(5),
        "sources": [],
        **opening[0][1],
    }
    assert ending == [("delta", {"text": "walks."}), ("done", done)]
    assert await program.ended() == 0
    rows = {(str(m.session_id), m.role.value): m.content for m in await tables.messages()}
    assert rows == {
        (answer.json()["session_id"], "user"): "Why?",
        (answer.json()["session_id"], "assistant"): answer.json()["response"],
        (opening[0][1]["session_id"], "user"): "How?",
        (opening[0][1]["session_id"], "assistant"): "It walks.",
    }


@pytest.mark.slow
@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@one_worker_or_slowly_two
async def test_a_signal_to_every_process_cuts_nothing_short(
    start: Start, tables: Tables, model_server: FakeOpenAI, workers: int, first: signal.Signals
) -> None:
    program = await start(workers)
    gate = asyncio.Event()
    model_server.enqueue(held(gate))

    async with asking(program, "Why?") as asked:
        await model_server.wait_for_requests(1)
        program.stop_every_process(first)
        await program.stopping()
        program.stop_every_process()
        if workers > 1:
            await program.printed("Waiting for child process", 1)
        ended_early, _ = await asyncio.wait([asked], timeout=0.5)
        assert not ended_early
        gate.set()
        answer = await asked

    assert answer.status_code == 200
    assert await program.ended() == 0
    assert [m.content for m in await tables.messages()] == ["Why?", answer.json()["response"]]


@pytest.mark.slow
@one_worker_or_slowly_two
async def test_what_outlasts_the_grace_ends_in_overloaded_and_can_be_asked_again(
    start: Start, tables: Tables, model_server: FakeOpenAI, postgres_url: str, workers: int
) -> None:
    name = f"book-chat-{uuid.uuid4()}"
    database_url = make_url(postgres_url).update_query_dict({"application_name": name})
    program = await start(
        workers,
        DATABASE_URL=database_url.render_as_string(hide_password=False),
        SHUTDOWN_GRACE_SECONDS="0.5",
    )
    model_server.enqueue(stall, stall, stream("Half an ", "answer", gate=asyncio.Event()))

    async with asking(program, "Why?", **new_key()) as asked:
        await model_server.wait_for_requests(1)
        async with asking(program, "Left?", **new_key()):
            await model_server.wait_for_requests(2)
        async with streaming(program, "How?", **new_key()) as events:
            opening = [await anext(events), await anext(events)]
            assert await connections(tables, name) > 0
            program.stop()
            ending = [event async for event in events]
        answer = await asked

    assert opening == [("session", {"session_id": IsUUID(5)}), ("delta", {"text": "Half an "})]
    assert ending == [("error", OVERLOADED)]
    assert answer.status_code == 503
    assert answer.json() == OVERLOADED
    assert answer.headers["retry-after"] == "1"
    assert await program.ended() == 0
    assert await connections(tables, name) == 0
    rows = await tables.messages()
    assert {m.content for m in rows} == {"Why?", "Left?", "How?"}
    assert [m.answering_until for m in rows] == [None] * 3
    assert "Traceback" not in program.output


async def connections(tables: Tables, application_name: str) -> int:
    counting = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name")
    async with tables.engine.connect() as connection:
        count: int = (await connection.execute(counting, {"name": application_name})).scalar_one()
        return count


@pytest.mark.slow
async def test_the_answer_to_a_reader_who_left_before_the_stop_is_recorded(
    start: Start, tables: Tables, model_server: FakeOpenAI
) -> None:
    program = await start()
    gate = asyncio.Event()
    model_server.enqueue(stream("It ", "walks.", gate=gate), held(gate))
    async with streaming(program, "How?") as events:
        await anext(events)
        await anext(events)
    async with asking(program, "Why?"):
        await model_server.wait_for_requests(2)

    program.stop()
    await program.stopping()
    gate.set()

    assert await program.ended() == 0
    rows = await tables.messages()
    assert {m.content for m in rows if m.role is MessageRole.assistant} == {"It walks.", "Answer 2 to: Why?"}
    assert len(rows) == 4


@pytest.mark.slow
async def test_while_the_service_stops_it_takes_no_connections_and_no_turns(
    start: Start, tables: Tables, model_server: FakeOpenAI
) -> None:
    program = await start()
    gate = asyncio.Event()
    model_server.enqueue(held(gate))

    async with asking(program, "Why?") as asked:
        await model_server.wait_for_requests(1)
        assert not await refuses_connections(program)
        program.stop()
        await program.stopping()
        await eventually(lambda: refuses_connections(program))
        gate.set()
        answer = await asked

    assert answer.status_code == 200
    assert await program.ended() == 0
    assert len(await tables.messages()) == 2


@pytest.mark.slow
async def test_questions_on_open_connections_are_answered_while_the_service_stops(
    start: Start, tables: Tables, model_server: FakeOpenAI
) -> None:
    program = await start()
    gate = asyncio.Event()
    model_server.enqueue(stream("It ", "walks.", gate=gate))
    async with (
        httpx2.AsyncClient(base_url=program.url, timeout=PATIENCE_SECONDS) as idle,
        httpx2.AsyncClient(base_url=program.url, timeout=PATIENCE_SECONDS) as busy,
    ):
        assert (await idle.get("/health")).status_code == 200
        async with busy.stream("POST", "/chat/stream", json={"message": "How?"}) as response:
            events = events_of(response)
            assert [name for name, _ in [await anext(events), await anext(events)]] == ["session", "delta"]
            program.stop()
            await program.stopping()
            await eventually(lambda: refuses_connections(program))
            on_idle = await idle.post("/chat", json={"message": "Why?"})
            gate.set()
            assert [name async for name, _ in events] == ["delta", "done"]
        # That response could not say yet that it is the last on its connection.
        on_busy = await busy.post("/chat", json={"message": "When?"})

    assert (on_idle.status_code, on_busy.status_code) == (200, 200)
    assert [r.headers.get("connection") for r in (response, on_idle, on_busy)] == [None, "close", "close"]
    assert await program.ended() == 0
    assert len(await tables.messages()) == 6


@pytest.mark.slow
async def test_idle_connections_do_not_hold_the_stop_up(start: Start) -> None:
    program = await start(SHUTDOWN_GRACE_SECONDS="600")
    async with httpx2.AsyncClient(base_url=program.url) as client:
        assert (await client.get("/health")).status_code == 200
        program.stop()

        assert await program.ended() == 0


UNFINISHED = {
    "body": b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
    "body of ChatKit": b"POST /chatkit HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
    "header": b"GET /health HTTP/1.1\r\nHost: x\r\nX-Thing: y",
    "next request": b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nPOST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
}


@pytest.mark.slow
@one_worker_or_slowly_two
async def test_clients_that_never_finish_their_requests_do_not_hold_the_stop_up(start: Start, workers: int) -> None:
    program = await start(workers, SHUTDOWN_GRACE_SECONDS="1")
    url = httpx2.URL(program.url)
    writers = []
    for request in [*UNFINISHED.values()] * 3:
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(request)
        await writer.drain()
        writers.append(writer)
    # Answered requests behind these show that they have arrived.
    async with httpx2.AsyncClient(base_url=program.url, timeout=PATIENCE_SECONDS) as client:
        for _ in range(5):
            assert (await client.get("/health")).status_code == 200

    program.stop()

    assert await program.ended() == 0
    assert "Traceback" not in program.output
    for writer in writers:
        writer.close()


@pytest.mark.slow
async def test_clients_that_do_not_read_do_not_hold_the_stop_up(
    start: Start, tables: Tables, model_server: FakeOpenAI
) -> None:
    program = await start(SHUTDOWN_GRACE_SECONDS="1", MAX_MESSAGE_CHARS="1000000")
    url = httpx2.URL(program.url)
    async with httpx2.AsyncClient(base_url=program.url, timeout=PATIENCE_SECONDS) as client:
        model_server.enqueue(completion("It walks. " * 200_000))
        session_id = (await client.post("/chat", json={"message": "Why?"})).json()["session_id"]
    model_server.enqueue(stream(*["It walks. " * 20_000] * 20))
    writers = []
    for request in (
        f"GET /chat/{session_id}/messages HTTP/1.1\r\nHost: x\r\n\r\n",
        (
            "POST /chat/stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n"
            '{"message": "How"}'
        ),
    ):
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(request.encode())
        await reader.readexactly(1)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writers.append(writer)

    async def is_recorded() -> bool:
        return len(await tables.messages()) == 4

    await eventually(is_recorded)
    program.stop()

    assert await program.ended() == 0
    for writer in writers:
        writer.close()


@pytest.mark.slow
@one_worker_or_slowly_two
async def test_a_database_that_holds_its_statements_does_not_hold_the_stop_up(
    start: Start, tables: Tables, model_server: FakeOpenAI, workers: int
) -> None:
    program = await start(workers, SHUTDOWN_GRACE_SECONDS="1")
    gate = asyncio.Event()
    model_server.enqueue(*[held(gate)] * 2)
    waiting = text(
        "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database "
        "WHERE NOT granted AND datname = current_database() AND relation = 'messages'::regclass"
    )

    async with (
        tables.engine.connect() as locking,
        tables.engine.connect() as looking,
        httpx2.AsyncClient(base_url=program.url, timeout=PATIENCE_SECONDS) as client,
        asking(program, "Why?", **new_key()) as asked,
        asking(program, "How?") as asked_without_key,
    ):

        async def statements_wait() -> bool:
            return bool((await looking.execute(waiting)).scalar_one() == 3)

        await model_server.wait_for_requests(2)
        await locking.execute(text("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE"))
        looked_up = asyncio.create_task(client.get("/health/ready"))
        gate.set()
        await eventually(statements_wait)
        program.stop()

        async with asyncio.timeout(stretched(8)):  # A statement alone may take ten seconds, and is tried twice.
            assert await program.ended() == 0
        for request in (asked, asked_without_key, looked_up):
            with suppress(httpx2.RemoteProtocolError):
                assert (await request).status_code == 503
    assert "Traceback" not in program.output


@pytest.mark.slow
async def test_a_server_that_embeds_uvicorn_ends_without_a_traceback(
    postgres_url: str, model_server: FakeOpenAI, tmp_path: Path
) -> None:
    embedding = "import uvicorn; uvicorn.Server(uvicorn.Config('app.main:app', port=0)).run()"
    environment = {"DATABASE_URL": postgres_url, "OPENAI_API_KEY": API_KEY, "OPENAI_BASE_URL": model_server.url}
    program = Program(commands.start("-c", embedding, folder=tmp_path, **environment), workers=1)
    try:
        await program.started()
        program.stop()

        assert await program.ended() == 0
        assert "Traceback" not in program.output
    finally:
        await asyncio.to_thread(program.kill)


@pytest.mark.slow
async def test_an_idle_service_leaves_at_once(start: Start) -> None:
    program = await start(SHUTDOWN_GRACE_SECONDS="600")

    program.stop()

    assert await program.ended() == 0


@pytest.mark.slow
async def test_a_question_whose_process_was_killed_is_answered_once_by_another(
    start: Start, tables: Tables, model_server: FakeOpenAI
) -> None:
    doomed, key = await start(), new_key()
    model_server.enqueue(stall)
    async with asking(doomed, "Why?", **key) as asked:
        await model_server.wait_for_requests(1)
        doomed.kill()
        with pytest.raises(httpx2.HTTPError):
            await asked
    successor = await start()

    async with asking(successor, "Why?", **key) as asked:
        while_claimed = await asked
    await tables.expire_claims()
    async with asking(successor, "Why?", **key) as asked:
        answered = await asked
    async with asking(successor, "Why?", **key) as asked:
        again = await asked

    assert while_claimed.status_code == 409
    assert while_claimed.json() == {
        "error": {
            "code": "turn_in_progress",
            "message": "This question is being answered. Please ask again in a moment.",
            "request_id": IsUUID(4),
            "retryable": True,
        }
    }
    assert while_claimed.headers["retry-after"] == "1"
    assert answered.status_code == again.status_code == 200
    assert answered.json() == again.json()
    assert [m.content for m in await tables.messages()] == ["Why?", "Answer 2 to: Why?"]
    assert len(await tables.sessions()) == 1
    assert len(model_server.requests) == 2
    assert [m["content"] for m in model_server.prompt[1:]] == ["Why?"]
