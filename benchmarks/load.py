"""A load generator that uses little CPU time itself: prepared requests over connections that stay open."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

_FIRST_PIECE = re.compile(rb'"text":\s*"(\d+) ')


class Client:
    """One connection to a server, opened when first needed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        """Return the status and the body of an answer that has a Content-Length."""
        reader = await self._send(path, body)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(head[9:12]), await reader.readexactly(length)

    async def first_piece(self, path: str, body: dict[str, Any]) -> float:
        """Return the seconds from the model's first piece to our reading it, and read the stream to its end."""
        reader = await self._send(path, body)
        data = b""
        seconds = None
        while not data.endswith(b"0\r\n\r\n"):
            data += await reader.read(65536)
            if seconds is None and (match := _FIRST_PIECE.search(data)):
                seconds = (time.monotonic_ns() - int(match[1])) / 1e9
        assert seconds is not None, data
        return seconds

    async def _send(self, path: str, body: dict[str, Any]) -> asyncio.StreamReader:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        content = json.dumps(body).encode()
        self._writer.write(
            b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (path.encode(), len(content), content)
        )
        return self._reader

    def close(self) -> None:
        """Close the connection."""
        if self._writer:
            self._writer.close()


async def closed_loop(port: int, bodies: Sequence[dict[str, Any]], *, clients: int, spread: float = 0) -> list[float]:
    """Post each body to `/chat` once, and return the seconds that each took; the clients start within `spread` seconds.

    Raises AssertionError for any answer but 200.
    """
    waiting = iter(bodies)
    seconds: list[float] = []

    async def work(number: int) -> None:
        await asyncio.sleep(spread * number / clients)
        client = Client(port)
        for body in waiting:
            started = time.perf_counter()
            status, content = await client.post("/chat", body)
            assert status == 200, content  # noqa: PLR2004
            seconds.append(time.perf_counter() - started)
        client.close()

    await asyncio.gather(*(work(number) for number in range(clients)))
    return seconds


async def until_answered(attempt: Callable[[], Awaitable[object]]) -> None:
    """Repeat the attempt until the server accepts it."""
    async with asyncio.timeout(120):
        while True:
            try:
                await attempt()
            except OSError:
                await asyncio.sleep(0.002)
            else:
                return
