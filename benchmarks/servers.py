"""The servers that are measured, the model they ask, and a slow network to the database."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import psutil

from benchmarks.load import Client, until_answered
from tests.postgres import free_port

ROOT = Path(__file__).parents[1]


@contextmanager
def running(*command: str, environment: Mapping[str, str]) -> Iterator[psutil.Process]:
    """Run a Python program until the block ends, with none of the caller's settings."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**inherited, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


@asynccontextmanager
async def model_server() -> AsyncIterator[str]:
    """Run the model server, and give its base address."""
    port = free_port()
    with running("-m", "benchmarks.model", str(port), environment={}):
        await until_answered(lambda: asyncio.open_connection("127.0.0.1", port))
        yield f"http://127.0.0.1:{port}/v1"


class Server:
    """A uvicorn server, with its process and the seconds from its start to its first answer."""

    def __init__(self, port: int, process: psutil.Process, seconds_to_answer: float) -> None:
        self.port = port
        self.process = process
        self.seconds_to_answer = seconds_to_answer

    def cpu_seconds(self) -> float:
        """Return the CPU time that the server's threads have used, as the kernel's scheduler counts it."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def resident_mib(self) -> float:
        """Return the server's resident memory."""
        return self.process.memory_info().rss / 2**20


@asynccontextmanager
async def serving(module: str, model_url: str, *, workers: int = 1, **settings: str) -> AsyncIterator[Server]:
    """Run a module that serves in production mode, and give the server after its first answer."""
    port = free_port()
    address = {"HOST": "127.0.0.1", "PORT": str(port), "WEB_CONCURRENCY": str(workers)}
    environment = {"OPENAI_API_KEY": "sk-benchmark", "OPENAI_BASE_URL": model_url, **address, **settings}
    started = time.perf_counter()
    with running("-m", module, environment=environment) as process:
        client = Client(port)

        async def first_answer() -> None:
            status, content = await client.post("/chat", {"message": "0 Hello"})
            assert status == 200, content  # noqa: PLR2004

        await until_answered(first_answer)
        seconds = time.perf_counter() - started
        client.close()
        yield Server(port, process, seconds)


class SlowProxy:
    """A proxy before the database that delays what it forwards, in each direction by half a round trip."""

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self.round_trip_seconds = 0.0
        self._target_port = target_port

    @asynccontextmanager
    async def relaying(self) -> AsyncIterator["SlowProxy"]:
        """Run the proxy until the block ends."""
        server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        try:
            yield self
        finally:
            server.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        await asyncio.gather(self._pass_on(reader, target_writer), self._pass_on(target_reader, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await reader.read(65536):
                loop.call_later(self.round_trip_seconds / 2, writer.write, data)
        except ConnectionError:
            pass
        loop.call_later(self.round_trip_seconds / 2, writer.close)
