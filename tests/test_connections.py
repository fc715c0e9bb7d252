"""Clients that are slow, silent or hostile, on raw connections to the server that the production commands start."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, override

import pytest
from dirty_equals import IsUUID
from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from app import connections
from app.connections import BoundedProtocol, bound_connections
from tests.conftest import Serve, eventually, running
from tests.marks import on_one_database
from tests.patience import PATIENCE_SECONDS, stretched

type Connect = Callable[..., Awaitable["Client"]]

SILENT = 0.2
"""The bound that a test lowers, in seconds."""


class Client:
    """A connection that sends what a test wants, when it wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *parts: str | bytes) -> None:
        """Send the parts; a connection that is closed is no error, since the answer may be there already."""
        try:
            for part in parts:
                self.writer.write(part.encode() if isinstance(part, str) else part)
                await self.writer.drain()
        except ConnectionError:
            pass

    async def response(self) -> tuple[int, bytes]:
        """Read one response; returns its status and its body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        return int(head.split()[1]), await self.reader.readexactly(length)

    async def is_ended(self) -> bool:
        """Read on to the end; returns False if the connection stays open."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self.reader.read()
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def serving(*routes: Route) -> AsyncIterator[Connect]:
    """Serve these routes; gives the function that connects, with a small buffer for what is not read."""
    clients: list[Client] = []

    with socket.create_server(("127.0.0.1", 0)) as listener:

        async def connect() -> Client:
            connecting = socket.socket()
            connecting.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connecting.setblocking(False)  # noqa: FBT003  # It takes nothing else.
            await asyncio.get_running_loop().sock_connect(connecting, listener.getsockname())
            clients.append(Client(*await asyncio.open_connection(sock=connecting, limit=1_024)))
            return clients[-1]

        async with running(Starlette(routes=routes), listener):
            try:
                yield connect
            finally:
                for client in clients:
                    client.writer.transport.abort()


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """The event that the server has lost a connection; it keeps idle ones for a second."""
    lost = asyncio.Event()

    class Observed(connections.BoundedProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.timeout_keep_alive = 1

        @override
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            lost.set()

    monkeypatch.setattr(connections, "BoundedProtocol", Observed)
    return lost


async def echo(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def refuse(_request: Request) -> Response:
    return PlainTextResponse("no", 413)


def chunked(count: int, path: str = "/") -> str:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + "1\r\nx\r\n" * count


ECHO = Route("/", echo, methods=["POST"])
END = "0\r\n\r\n"


async def test_a_body_in_too_many_pieces_is_refused() -> None:
    async with serving(ECHO) as connect:
        client = await connect()
        await client.send(chunked(connections.MOST_PIECES), END, chunked(connections.MOST_PIECES), END)
        accepted = [await client.response(), await client.response()]
        await client.send(chunked(connections.MOST_PIECES + 1))
        status, body = await client.response()

        assert accepted == [(200, b"1000")] * 2
        assert status == 400
        assert from_json(body) == {
            "error": {
                "code": "validation_error",
                "message": "The request is not valid.",
                "request_id": IsUUID(4),
                "retryable": False,
                "details": [{"field": "request", "reason": "Invalid HTTP request received."}],
            }
        }
        assert await client.is_ended()


@pytest.mark.parametrize(
    "request_line",
    [
        "GET / HTTP/9",
        "GET / HTTP/2.0\r\nHost: x",
        "GET /",
        "\0",
        "GET / HTTP/1.1",
        "GET / HTTP/1.1\r\nHost: x\r\nHost: y",
        "CONNECT x:443 HTTP/1.1\r\nHost: x",
        "GET / HTTP/1.1\r\nHost: x\r\nX: " + "y" * 100_000,
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        "POST",
    ],
)
async def test_what_is_no_request_gets_an_error_body_and_the_end(request_line: str) -> None:
    async with serving(ECHO) as connect:
        client = await connect()
        await client.send(request_line, "\r\n\r\n")

        status, body = await client.response()

        assert (status, from_json(body)["error"]["code"]) == (400, "validation_error")
        assert await client.is_ended()


@pytest.mark.parametrize("connection", ["", "Connection: close\r\n"], ids=["kept", "closed"])
@pytest.mark.parametrize("body", ["announced", "chunked", "not a chunk"])
async def test_a_client_that_sends_on_after_a_refusal_reads_it_and_the_connection_ends(
    body: str, connection: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(Route("/", refuse, methods=["POST"])) as connect:
        client = await connect()
        head = f"POST / HTTP/1.1\r\nHost: x\r\n{connection}"
        if body == "announced":
            await client.send(head, "Content-Length: 99999999\r\n\r\n", *["x" * 100_000] * 30)
        else:
            await client.send(head, "Transfer-Encoding: chunked\r\n\r\n")
            assert await client.reader.readexactly(12) == b"HTTP/1.1 413"
            await client.send(*["zz\r\n" if body == "not a chunk" else "1\r\nx\r\n" * 100_000] * 10)

        response = await client.reader.read(10_000)

        assert b"no" in response
        assert await client.is_ended()
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("method", ["HEAD", "POST"])
async def test_a_body_that_cannot_be_parsed_is_refused_without_a_trace(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def wait_for_body(request: Request) -> Response:
        with pytest.raises(ClientDisconnect):
            await request.body()
        return Response()

    async with serving(Route("/", wait_for_body, methods=["HEAD", "POST"])) as connect:
        client = await connect()
        await client.send(f"{method} / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")

        response = await client.reader.read()

        assert response.startswith(b"HTTP/1.1 400 ")
        assert response.endswith(b"}") == (method == "POST")
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("protocol", ["websocket", "h2c"])
async def test_a_client_that_wants_another_protocol_gets_this_one(
    protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(ECHO, text_of(2)) as connect:
        client = await connect()
        head = f"HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: {protocol}\r\n"
        await client.send(
            f"POST / {head}Content-Length: 1\r\n\r\nx",
            f"GET / {head}\r\n" + f"POST / {head}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
            "2\r\nxx\r\n",
            END,
        )

        assert [await client.response() for _ in range(3)] == [(200, b"1"), (200, b"xx"), (200, b"3")]
    assert "upgrade" not in caplog.text


async def test_a_client_of_http_1_0_gets_no_chunks_and_the_end_of_the_connection() -> None:
    async def answer() -> AsyncIterator[bytes]:
        yield b"beginning"
        yield b"end"

    async def stream(_request: Request) -> Response:
        return StreamingResponse(answer())

    async with serving(Route("/", stream), text_of(3, "/text")) as connect:
        for path, body in (("/", b"beginningend"), ("/text", b"xxx")):
            for headers in ("", "Connection: keep-alive\r\n"):
                client = await connect()
                await client.send(f"GET {path} HTTP/1.0\r\n{headers}\r\n")
                head, _, response = (await client.reader.read()).partition(b"\r\n\r\n")

                assert b"transfer-encoding" not in head
                assert b"connection: close" in head
                assert response == body


async def test_requests_that_are_sent_ahead_are_answered_in_their_order() -> None:
    async with serving(ECHO) as connect:
        client = await connect()
        count = connections.MOST_WAITING + 1
        await client.send(
            "".join(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {n}\r\n\r\n" + "x" * n for n in range(count))
        )

        assert [await client.response() for _ in range(count)] == [(200, b"%d" % n) for n in range(count)]


@pytest.mark.parametrize(
    "refused",
    [
        "POST / HTTP/9\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" * 1_000,
    ],
    ids=["no request", "no body", "too many"],
)
async def test_what_was_sent_before_a_refused_request_is_answered_first(refused: str) -> None:
    async with serving(ECHO) as connect:
        client = await connect()
        await client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx" + refused)

        assert await client.response() == (200, b"1")
        while (response := await client.response())[0] == 200:
            assert response == (200, b"0")
        assert response[0] == 400
        assert await client.is_ended()


async def test_who_is_gone_is_noticed_by_the_request_that_is_being_answered() -> None:
    began, gone = asyncio.Event(), asyncio.Event()

    async def wait(request: Request) -> Response:
        await request.body()
        began.set()
        assert (await request.receive())["type"] == "http.disconnect"
        gone.set()
        return Response()

    async with serving(Route("/", wait)) as connect:
        client = await connect()
        await client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await began.wait()
            client.writer.transport.abort()
            await gone.wait()


async def test_what_cannot_be_parsed_ends_a_response_that_is_under_way() -> None:
    release = asyncio.Event()

    async def answer() -> AsyncIterator[bytes]:
        yield b"beginning"
        await release.wait()
        yield b"end"

    async def stream(_request: Request) -> Response:
        return StreamingResponse(answer())

    async with serving(Route("/", stream, methods=["POST"])) as connect:
        client = await connect()
        await client.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.reader.readuntil(b"beginning")
        await client.send("zz\r\n")

        assert await client.is_ended()
        release.set()


async def test_what_follows_a_refused_request_on_its_connection_is_not_served(lost: asyncio.Event) -> None:
    served = []

    async def count(request: Request) -> Response:
        served.append(request.method)
        return PlainTextResponse("no", 413)

    async with serving(Route("/", count, methods=["POST"])) as connect:
        client = await connect()
        await client.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert await client.response() == (413, b"no")
        await client.send(END, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")

        assert await client.reader.read() == b""
        client.writer.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await lost.wait()
    assert served == ["POST"]


async def test_a_refused_client_that_never_stops_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LINGER_SECONDS", SILENT)
    async with serving(Route("/", refuse, methods=["POST"])) as connect:
        client = await connect()
        await client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")

        async def is_cut_off() -> bool:
            await client.send("x" * 10_000)
            return client.writer.transport.is_closing()

        await eventually(is_cut_off)


@pytest.mark.parametrize(
    "beginning",
    [
        "",
        "POST / HTTP/1.1\r\nHost: x",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        chunked(1),
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nxPOST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nx",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nxPOST / HTTP/1.1\r\nHost: x",
    ],
    ids=["nothing", "headers", "body", "chunks", "second request", "headers of the second request"],
)
async def test_a_request_that_does_not_arrive_ends_its_connection(
    beginning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", SILENT)
    async with serving(ECHO) as connect:
        client = await connect()
        await client.send(beginning)

        assert await client.is_ended()


@pytest.mark.parametrize(
    "beginning",
    [
        "POST /",
        "POST / HTTP/1.1\r\nHost: x\r\nX-Long: ",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Long: ",
    ],
    ids=["path", "header", "extension", "trailer"],
)
async def test_what_belongs_to_a_request_beside_its_body_is_bounded(beginning: str) -> None:
    async with serving(ECHO) as connect:
        client = await connect()
        await client.send(beginning, "x" * connections.MOST_OVERHEAD_BYTES)

        status, _ = await client.response()
        assert status == 400
        assert await client.is_ended()


async def test_a_client_that_sends_a_little_from_time_to_time_has_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", SILENT)
    async with serving(ECHO) as connect:
        client = await connect()
        await client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        ended = asyncio.create_task(client.is_ended())

        async def is_ended() -> bool:
            await client.send("x")
            return ended.done()

        await eventually(is_ended)
        assert ended.result()


async def test_a_request_that_has_arrived_takes_as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = SILENT / 4

    async def answer_slowly(request: Request) -> Response:
        await request.body()
        await asyncio.sleep(3 * silent)
        monkeypatch.setattr(connections, "REQUEST_SECONDS", PATIENCE_SECONDS)  # For the rest of the next one.
        return PlainTextResponse("at last")

    async with serving(Route("/", answer_slowly, methods=["POST"])) as connect:
        client = await connect()
        request = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"
        await client.send(request)  # When this is answered, the connection is no longer new.
        assert await client.response() == (200, b"at last")
        for next_one in ("", request[:4], request[:-1]):
            monkeypatch.setattr(connections, "REQUEST_SECONDS", silent)
            await client.send(request, next_one)
            assert await client.response() == (200, b"at last")
            await client.send(request[len(next_one) :])
            assert await client.response() == (200, b"at last")


def text_of(size: int, path: str = "/") -> Route:
    async def answer(_request: Request) -> Response:
        return PlainTextResponse("x" * size)

    return Route(path, answer)


@pytest.mark.parametrize("connection", ["", "Connection: close\r\n"], ids=["kept", "closed"])
@pytest.mark.parametrize("size", [50_000, 20_000_000], ids=["small", "large"])
async def test_a_response_that_nobody_reads_ends_its_connection(
    size: int, connection: str, lost: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "UNREAD_SECONDS", SILENT)
    async with serving(text_of(size)) as connect:
        client = await connect()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await client.send(f"GET / HTTP/1.1\r\nHost: x\r\n{connection}\r\n")

        async with asyncio.timeout(PATIENCE_SECONDS):
            await lost.wait()


async def test_a_slow_reader_gets_all_of_a_response(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = stretched(SILENT)
    monkeypatch.setattr(connections, "UNREAD_SECONDS", silent)
    async with serving(text_of(20_000_000)) as connect:
        client = await connect()
        await client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.reader.readuntil(b"\r\n\r\n")

        received = 0
        while received < 20_000_000:
            received += len(await client.reader.readexactly(1_000_000))
            await asyncio.sleep(silent / 10)

        assert received == 20_000_000


async def test_a_reader_who_was_slow_once_is_not_watched_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = stretched(SILENT)
    monkeypatch.setattr(connections, "UNREAD_SECONDS", silent)

    async def answer_slowly(_request: Request) -> Response:
        await asyncio.sleep(4 * silent)
        return PlainTextResponse("at last")

    async with serving(text_of(20_000_000), Route("/slow", answer_slowly)) as connect:
        client = await connect()
        await client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.response())[0] == 200
        await client.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")

        assert await client.response() == (200, b"at last")


@pytest.mark.parametrize(
    ("protocol", "seconds", "bounded", "kept"),
    [
        (H11Protocol, 5, BoundedProtocol, 75),
        (H11Protocol, 20, BoundedProtocol, 20),  # Someone chose these seconds.
        (asyncio.Protocol, 5, asyncio.Protocol, 5),  # And someone this protocol.
    ],
)
def test_the_server_gets_bounded_connections_unless_its_command_chose_others(
    monkeypatch: pytest.MonkeyPatch, protocol: type, seconds: int, bounded: type, kept: int
) -> None:
    config = SimpleNamespace(http_protocol_class=protocol, timeout_keep_alive=seconds)
    monkeypatch.setattr("app.connections.uvicorn_server", lambda: SimpleNamespace(config=config))

    bound_connections()

    assert (config.http_protocol_class, config.timeout_keep_alive) == (bounded, kept)


@on_one_database
async def test_a_refused_preflight_has_an_error_body(serve: Serve) -> None:
    service = await serve()

    refused = await service.client.options(
        "/chat", headers={"Origin": "https://stranger.example", "Access-Control-Request-Method": "POST"}
    )

    assert refused.status_code == 400
    assert refused.json()["error"]["details"] == [{"field": "Origin", "reason": "Disallowed CORS origin"}]
