"""The connections of clients: what each may send and hold, and for how long.

The lifespan gives this protocol to uvicorn. uvicorn's own one waits for as long as a client takes, both for the rest of a request and
for a response to be read, and takes headers of any size. It closes an idle connection after five seconds, when a proxy may be sending
a question into it.
"""

import asyncio
import signal
from collections.abc import Callable
from typing import Any, cast, override

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.errors import invalid_request

KEEP_ALIVE_SECONDS = 75
"""How long a connection is kept without a request: longer than the 60 seconds for which proxies keep theirs."""
_UVICORNS_KEEP_ALIVE_SECONDS = 5
"""What it is if nobody says."""
DRAIN_SECONDS = 3
"""How long an idle connection is kept when the process stops, for a question that is on its way already."""
REQUEST_SECONDS = 30.0
"""How long a request may take to arrive, body included; and how long a new connection may stay silent."""
UNREAD_SECONDS = 30.0
"""How long a reader may take nothing of a response that does not fit into the connection's buffers."""
LINGER_SECONDS = 5.0
"""How long the rest of a refused request is thrown away, so that its client comes to read the refusal."""
MOST_PIECES = 1_000
"""In how many pieces a body may come: to read a piece takes as long whatever its size."""
MOST_OVERHEAD_BYTES = 32_768
"""How long all of a request may be that is not its body: its headers, and what stands between the pieces."""
MOST_WAITING = 16
"""How many requests a client may send ahead, before the first of them is answered."""

_INVALID = "Invalid HTTP request received."


class _Transport:
    """The connection's transport, but closed in the protocol's way."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self.close = close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol on httptools, for clients that are slow, silent or hostile.

    A request that is not there in time, and a response that nobody reads, end the connection. What follows a refused request
    on its connection is thrown away unread.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._running: RequestResponseCycle | None = None
        self._has_arrived = False
        self._pieces = 0
        self._overhead = 0
        self._is_refused = False
        self._is_lingering = False
        self._is_draining = False
        self._arriving: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._lingering: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._close = transport.close
        self.transport = cast("asyncio.Transport", _Transport(transport, self._end))
        self._await_request()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._arriving, self._unread, self._lingering):
            if timer:
                timer.cancel()
        if self._running:  # uvicorn would tell the request that came last.
            self.cycle = self._running
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            while data and not (self._is_refused or self._is_lingering):
                data = self._parse(data)
        except httptools.HttpParserError:
            self._refuse()
        self._await_request()

    def _parse(self, data: bytes) -> bytes:
        """Parse the data, and return what is to be parsed yet."""
        self._overhead += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # The parser leaves the body to the other protocol that the client asks for, and there is none.
            headers = [header for header in self.headers if header[0] != b"upgrade"]
            first = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
            self.parser = httptools.HttpRequestParser(self)
            self._overhead = 0
            return b"".join([first, *map(_line, headers), b"\r\n", data[upgrade.args[0] :]])
        if self._overhead > MOST_OVERHEAD_BYTES:
            raise httptools.HttpParserError
        return b""

    @override
    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._has_arrived = False
        self._pieces = 0

    @override
    def on_headers_complete(self) -> None:
        method = self.parser.get_method()
        if self.parser.should_upgrade() and method != b"CONNECT":
            return
        version = self.parser.get_http_version()
        hosts = sum(name == b"host" for name, _ in self.headers)
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if (
            method == b"CONNECT"
            or version not in {"1.0", "1.1"}
            or hosts > 1
            or (version == "1.1" and not hosts)
            or size > MOST_OVERHEAD_BYTES
            or len(self.pipeline) >= MOST_WAITING
        ):
            raise httptools.HttpParserError
        super().on_headers_complete()

    @override
    def on_body(self, body: bytes) -> None:
        self._overhead -= len(body)
        self._pieces += 1
        if self._pieces > MOST_PIECES:
            raise httptools.HttpParserError
        super().on_body(body)

    @override
    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._has_arrived = True
        self._overhead = 0
        super().on_message_complete()

    @override
    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, _without_chunks(app, cycle) if cycle.scope["http_version"] == "1.0" else app)
        if self._is_draining:
            self._announce_end()

    @override
    def shutdown(self) -> None:
        """End the connection with the next response that can say so, or when no request comes any more."""
        if self._is_lingering:
            return
        self._is_draining = True
        self.timeout_keep_alive = DRAIN_SECONDS
        self._announce_end()
        if self._running is None or self._running.response_complete:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(DRAIN_SECONDS, self.timeout_keep_alive_handler)

    def _announce_end(self) -> None:
        """Have the response say that it is the last: else a proxy could send its next question into a connection that closes."""
        if self._running and not self._running.response_started:
            self._running.keep_alive = False

    @property
    def _is_answering(self) -> bool:
        """Whether a request that has arrived is being answered."""
        running = self._running
        return running is not None and not running.response_complete and not running.more_body

    def _await_request(self) -> None:
        """Have the connection end if a request has begun and does not arrive."""
        if self._has_arrived or self._is_answering or self._is_lingering:
            if self._arriving:
                self._arriving.cancel()
                self._arriving = None
        elif self._arriving is None:
            self._arriving = asyncio.get_running_loop().call_later(REQUEST_SECONDS, self.transport.abort)

    @override
    def on_response_complete(self) -> None:
        if self._is_lingering:
            return
        has_arrived = self._running is None or not self._running.more_body
        if self._is_refused and not self.pipeline:
            self._send_refusal()
            return
        super().on_response_complete()
        if not has_arrived:
            self._linger()
        self._await_request()

    def _refuse(self) -> None:
        """Refuse what was parsed last, after the responses to the requests before it."""
        self.logger.warning(_INVALID)
        self._is_refused = True
        if self.pipeline and self.pipeline[0][0].more_body:
            self.pipeline.popleft()
        if not self._is_answering:
            self._send_refusal()

    def _send_refusal(self) -> None:
        awaited = self._running if self._running and not self._running.response_complete else None
        if awaited and awaited.response_started:  # It cannot be taken back.
            self.transport.abort()
            return
        if not self.transport.is_closing():
            response = invalid_request("request", _INVALID)
            headers = [*response.raw_headers, (b"connection", b"close")]
            has_body = awaited is None or awaited.scope["method"] != "HEAD"
            body = bytes(response.body) if has_body else b""
            self.transport.write(b"".join([STATUS_LINE[400], *map(_line, headers), b"\r\n", body]))
        if awaited:
            awaited.disconnected = True
            awaited.message_event.set()
        self._linger()

    def _end(self) -> None:
        """Close the connection when what was written has been read."""
        if (self._has_arrived and not self._is_refused) or self.transport.is_closing():
            self._close()
            if self._unread is None and self.transport.get_write_buffer_size():
                self._watch_reader()
        else:
            self._linger()

    def _linger(self) -> None:
        """End the connection so that the client still gets what was written: closed at once, it would get a reset instead."""
        if self._is_lingering:
            return
        self._is_lingering = True
        self._unset_keepalive_if_required()
        if not self.transport.is_closing():
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self.flow.resume_reading()
        self._lingering = asyncio.get_running_loop().call_later(LINGER_SECONDS, self.transport.abort)

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._watch_reader()

    @override
    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread and not self.transport.is_closing():
            self._unread.cancel()
            self._unread = None

    def _watch_reader(self, unread: int | None = None) -> None:
        """Have the connection end if its reader has taken nothing since this many bytes were unread."""
        size = self.transport.get_write_buffer_size()
        if unread is not None and size >= unread:
            self.transport.abort()
        else:
            self._unread = asyncio.get_running_loop().call_later(UNREAD_SECONDS, self._watch_reader, size)


def _without_chunks(app: Any, cycle: RequestResponseCycle) -> Any:
    """Return the application for a client of HTTP/1.0, which knows no chunks: its response ends with the connection."""
    cycle.chunked_encoding = False

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        async def send_as_it_is(message: Any) -> None:
            if message["type"] == "http.response.body":
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_as_it_is)

    return answer


def _line(header: tuple[bytes, bytes]) -> bytes:
    return b"%s: %s\r\n" % header


def uvicorn_server() -> Any | None:
    """Return the server that runs in this process, or None; some platforms bring it under another name."""
    # Its handler of signals is a method of it.
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return server if hasattr(server, "should_exit") and hasattr(server, "server_state") else None


def bound_connections() -> None:
    """Have uvicorn use this protocol and keep connections for longer, unless the command that started it chose otherwise."""
    server = uvicorn_server()
    if server is None or not server.config.http_protocol_class.__module__.startswith(("uvicorn.", __name__)):
        return
    server.config.http_protocol_class = BoundedProtocol
    if server.config.timeout_keep_alive == _UVICORNS_KEEP_ALIVE_SECONDS:
        server.config.timeout_keep_alive = KEEP_ALIVE_SECONDS
