"""The connections of clients: what each may send and hold, and for how long.

The lifespan gives this protocol to uvicorn. uvicorn's own one bounds the size of headers, and waits for as long as a client takes,
both for the rest of a request and for a response to be read. It closes an idle connection after five seconds, when a proxy may be
sending a question into it.
"""

import asyncio
import signal
from collections.abc import Callable
from typing import Any, cast, override

import h11
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

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


class _Parser(h11.Connection):
    """h11's parser, which refuses a body in too many pieces."""

    _pieces = 0

    @override
    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._pieces = 0
        elif isinstance(event, h11.Data):
            self._pieces += 1
            if self._pieces > MOST_PIECES:
                raise h11.RemoteProtocolError("too many pieces")
        return event

    @property
    def is_request_complete(self) -> bool:
        return self.their_state not in {h11.IDLE, h11.SEND_BODY}


class _Transport:
    """The connection's transport, but closed in the protocol's way."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self.close = close

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol on h11, for clients that are slow, silent or hostile.

    A request that is not there in time, and a response that nobody reads, end the connection. What follows a refused request
    on its connection is thrown away unread.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn: _Parser = _Parser(h11.SERVER)
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
        super().connection_lost(exc)

    @override
    def data_received(self, data: bytes) -> None:
        if self._is_lingering:
            return
        super().data_received(data)
        self._await_request()

    @override
    def handle_events(self) -> None:
        super().handle_events()
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
        if self._current_cycle is None or self._current_cycle.response_complete:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(DRAIN_SECONDS, self.timeout_keep_alive_handler)

    @property
    def _current_cycle(self) -> RequestResponseCycle | None:
        return self.cycle  # Its declared type leaves out that there is none before the first request.

    def _announce_end(self) -> None:
        """Have the response say that it is the last: else a proxy could send its next question into a connection that closes."""
        cycle = self._current_cycle
        if cycle is not None and not cycle.response_started:
            cycle.default_headers = [*self.server_state.default_headers, CLOSE_HEADER]

    def _await_request(self) -> None:
        """Have the connection end if a request has begun and does not arrive."""
        if self.conn.is_request_complete or self._is_lingering:
            if self._arriving:
                self._arriving.cancel()
                self._arriving = None
        elif self._arriving is None:
            self._arriving = asyncio.get_running_loop().call_later(REQUEST_SECONDS, self.transport.abort)

    @override
    def _should_upgrade(self) -> bool:
        return False  # There is nothing to upgrade to, and uvicorn would log advice each time.

    @override
    def on_response_complete(self) -> None:
        if self._is_lingering:
            return
        is_refused = not self.conn.is_request_complete
        super().on_response_complete()
        if is_refused:
            self._linger()
        elif (
            self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]
        ):  # The next request has begun already.
            self._await_request()

    @override
    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state is h11.SEND_BODY:  # A response is under way, and cannot be taken back.
            self.transport.abort()
            return
        is_awaited = self.conn.our_state is h11.SEND_RESPONSE
        if (is_awaited or self.conn.our_state is h11.IDLE) and not self.transport.is_closing():
            response = invalid_request("request", msg)
            has_body = not (is_awaited and self.scope["method"] == "HEAD")
            for event in (
                h11.Response(
                    status_code=response.status_code,
                    headers=[*response.raw_headers, (b"connection", b"close")],
                    reason=b"Bad Request",
                ),
                h11.Data(data=bytes(response.body) if has_body else b""),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        if is_awaited:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._linger()

    def _end(self) -> None:
        """Close the connection when what was written has been read."""
        if self.conn.is_request_complete or self.transport.is_closing():
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
