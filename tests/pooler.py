"""What can be between the service and its database: PgBouncer, a replacement for it in Python, and a bad network."""

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import trustme

from tests.patience import PATIENCE_SECONDS
from tests.postgres import free_port

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
"""The program, which Debian keeps out of an ordinary user's path; None where it is not installed."""

SERVER_CONNECTIONS = 5
"""How many connections to the server PgBouncer shares out."""

USER, PASSWORD = "reader", "p@ss"
HOST = "localhost"
"""The one name in the certificates."""

_INI = """
[databases]
* = host=127.0.0.1 port={server_port} user=postgres

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {size}
max_client_conn = {clients}
client_tls_sslmode = require
client_tls_cert_file = {folder}/server.pem
client_tls_key_file = {folder}/server.pem
server_login_retry = 0.1
logfile = {folder}/log
"""


class Front:
    """Where clients meet a pooler."""

    port: int
    authority: Path
    """The certificate of the authority that issued the pooler's own, which nobody trusts unasked."""

    def url(self, database: str, *, host: str = HOST, **parameters: str) -> str:
        """Return the connection string, in the shape of Neon's console."""
        query = urlencode(parameters, quote_via=quote)
        return f"postgresql://{USER}:{quote(PASSWORD)}@{host}:{self.port}/{database}?{query}"


class PgBouncer(Front):
    """PgBouncer in transaction mode, which takes TLS alone and asks for a password; the server sees `postgres`."""

    def __init__(self, folder: Path, server_port: int, clients: int) -> None:
        self.port = free_port()
        self.authority = folder / "authority.pem"
        self._folder = folder
        self._user = "nobody" if os.getuid() == 0 else None  # PgBouncer refuses to run as root.
        self._process: subprocess.Popen[bytes] | None = None
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.authority)
        authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
        ini = _INI.format(
            server_port=server_port, port=self.port, folder=folder, size=SERVER_CONNECTIONS, clients=clients
        )
        (folder / "pgbouncer.ini").write_text(ini)
        (folder / "users").write_text(f'"{USER}" "{PASSWORD}"\n')
        if self._user:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, self._user)

    def start(self) -> None:
        assert PGBOUNCER is not None
        self._process = subprocess.Popen(
            [PGBOUNCER, "--quiet", self._folder / "pgbouncer.ini"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self._user,
            cwd=self._folder,
        )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"PgBouncer did not start:\n{(self._folder / 'log').read_text()}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it at once, with every connection."""
        if self._process:
            self._process.kill()
            self._process.wait(PATIENCE_SECONDS)

    def _accepts(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except ConnectionRefusedError:
            return False
        return True


@contextmanager
def pgbouncer(server_port: int, *, clients: int = 500) -> Iterator[PgBouncer]:
    """Run PgBouncer in front of the server until the block ends; it admits so many clients at once."""
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as folder:
        pooler = PgBouncer(Path(folder), server_port, clients)
        pooler.start()
        try:
            yield pooler
        finally:
            pooler.stop()


_PROTOCOL_3 = 196_608
_SSL_REQUEST = 80_877_103
_CANCEL_REQUEST = 80_877_102

_STARTUP_PARAMETERS = frozenset(
    {"user", "database", "application_name", "client_encoding", "datestyle", "timezone", "standard_conforming_strings"}
)
"""What PgBouncer can keep track of; it refuses the others."""


class TlsPooler(Front):
    """What a pooler in transaction mode demands of its clients, without the pooling.

    It takes TLS alone, asks for a password, and refuses the startup parameters that PgBouncer refuses. It also refuses
    every prepared statement with a name: behind a pooler the next transaction may meet a server that does not know it.
    `refused` holds what it refused. A client gets the next of `full`, an SQLSTATE and a message, in place of a connection, and the
    next of `busy` in place of its first statement.
    """

    def __init__(self, folder: Path, server_port: int) -> None:
        self.refused: list[str] = []
        self.full: list[tuple[str, str]] = []
        self.busy: list[tuple[str, str]] = []
        self.authority = folder / "authority.pem"
        self._server_port = server_port
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._conversations: set[asyncio.Task[None]] = set()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.authority)
        authority.issue_cert(HOST).configure_cert(self._tls)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["TlsPooler"]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await _cancel(self._conversations)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _start(self._conversations, self._converse(reader, writer))

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_writer = None
        try:
            startup = await self._admit(reader, writer)
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
            server_writer.write(startup)
            await _first_of(
                self._relay_messages(reader, writer, server_writer),
                _copy(server_reader, writer),
            )
        except (OSError, asyncio.IncompleteReadError):
            pass  # One of the two hung up, or did not like the certificate.
        except _RefusalError as error:
            self.refused.append(str(error))
            writer.write(_error(str(error), severity="FATAL", code=error.code))
            with contextlib.suppress(OSError):
                await writer.drain()
        finally:
            writer.close()
            if server_writer:
                server_writer.close()

    async def _admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """Return the startup message for the server, or the cancel request, which ends the conversation there."""
        encrypted = False
        while True:
            size, code = struct.unpack("!ii", await reader.readexactly(8))
            if code == _SSL_REQUEST and not encrypted:
                writer.write(b"S")
                await writer.start_tls(self._tls)
                encrypted = True
                continue
            rest = await reader.readexactly(size - 8)
            if code == _CANCEL_REQUEST:
                return struct.pack("!ii", size, code) + rest
            if not encrypted:
                raise _RefusalError("SSL required")
            words = [word.decode() for word in rest.rstrip(b"\0").split(b"\0")]
            parameters = dict(zip(words[::2], words[1::2], strict=True))
            for name in parameters:
                if name.lower() not in _STARTUP_PARAMETERS:
                    raise _RefusalError(f"unsupported startup parameter: {name}")
            await self._authenticate(reader, writer, parameters["user"])
            if self.full:
                raise _RefusalError(*reversed(self.full.pop()))
            return _startup({**parameters, "user": "postgres"})

    async def _authenticate(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, user: str) -> None:
        writer.write(b"R" + struct.pack("!ii", 8, 3))  # The password, in clear text inside the TLS.
        _, body = await _read_message(reader)
        if (user, body.rstrip(b"\0").decode()) != (USER, PASSWORD):
            raise _RefusalError("password authentication failed")

    async def _relay_messages(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: asyncio.StreamWriter
    ) -> None:
        refusing = False
        while True:
            kind, body = await _read_message(reader)
            if kind == b"P" and self.busy:
                raise _RefusalError(*reversed(self.busy.pop()))
            if kind == b"P" and not body.startswith(b"\0"):
                name = body.partition(b"\0")[0].decode()
                self.refused.append(f"prepared statement {name}")
                writer.write(_error(f"prepared statement {name!r} does not exist", code="26000"))
                refusing = True
            # After an error everything up to the Sync is skipped; the server's answer to that ends the exchange.
            if not refusing or kind == b"S":
                refusing = False
                server.write(kind + struct.pack("!i", len(body) + 4) + body)
                await server.drain()


class _RefusalError(Exception):
    """A client is turned away."""

    def __init__(self, message: str, code: str = "08P01") -> None:
        super().__init__(message)
        self.code = code


async def _read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    kind = await reader.readexactly(1)
    (size,) = struct.unpack("!i", await reader.readexactly(4))
    return kind, await reader.readexactly(size - 4)


def _startup(parameters: dict[str, str]) -> bytes:
    words = b"".join(f"{name}\0{value}\0".encode() for name, value in parameters.items()) + b"\0"
    return struct.pack("!ii", len(words) + 8, _PROTOCOL_3) + words


def _error(message: str, *, severity: str = "ERROR", code: str = "08P01") -> bytes:
    body = f"S{severity}\0V{severity}\0C{code}\0M{message}\0\0".encode()
    return b"E" + struct.pack("!i", len(body) + 4) + body


class TcpProxy:
    """The network between a client and a server, which counts what passes and can fail.

    `flights` holds what clients sent without waiting for an answer in between: their number is that of the round trips.
    Each is held back for `delay` seconds.
    """

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self.delay = 0.0
        self.flights: list[bytearray] = []
        self.accepted = 0
        self.lost = 0
        self._telling: bytes | None = None
        self._saying: bytes | None = None
        self._server_port = server_port
        self._swallowing = False
        self._links: set[_Link] = set()
        self._conversations: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._reserved: socket.socket | None = None

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["TcpProxy"]:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            if self._server is not None:
                self._server.close()
            if self._reserved:
                self._reserved.close()
            await _cancel(self._conversations)

    def cut(self) -> None:
        """Reset every connection, and refuse new ones."""
        self.refuse()
        for link in self._links:
            link.reset()

    def refuse(self) -> None:
        """Refuse new connections."""
        assert self._server is not None
        self._server.close()
        self._server = None
        # A socket that is bound but does not listen refuses, and keeps the port from others.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", self.port))

    def blackhole(self) -> None:
        """Keep and accept connections, and let nothing through."""
        self._swallowing = True

    def silence(self) -> None:
        """Let nothing more through on the connections that are open now; new ones work."""
        for link in self._links:
            link.silent = True

    def lose_answer_to(self, telling: bytes) -> None:
        """Reset the connection when the server answers the next flight that holds these bytes; `lost` counts it."""
        self._telling = telling

    def lose_answer(self, saying: bytes) -> None:
        """Reset the connection in place of the server's next answer that holds these bytes; `lost` counts it."""
        self._saying = saying

    async def restore(self) -> None:
        """Let everything through again; connections that something was lost of are reset."""
        self._swallowing = False
        for link in self._links:
            if link.lossy:
                link.reset()
        if self._reserved:
            self._server = await asyncio.start_server(self._accept, sock=self._reserved)
            self._reserved = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        _start(self._conversations, self._converse(reader, writer))

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        self._links.add(link)
        server_writer = None
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
            link.writers.append(server_writer)
            await _first_of(
                self._relay(link, reader, server_writer, from_client=True),
                self._relay(link, server_reader, writer, from_client=False),
            )
        except OSError:
            pass  # One of the two hung up.
        finally:
            self._links.discard(link)
            for each in link.writers:
                each.close()

    async def _relay(
        self, link: "_Link", reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool
    ) -> None:
        while data := await reader.read(65_536):
            if self._swallowing or link.silent:
                link.lossy = True
                continue
            if not from_client:
                told = self._telling and self._telling in (link.flight or b"")
                if told or (self._saying and self._saying in data):
                    self._telling = self._saying = None
                    self.lost += 1
                    link.reset()
                    return
                link.flight = None
            elif link.flight is None:
                link.flight = bytearray(data)
                self.flights.append(link.flight)
                if self.delay:
                    await asyncio.sleep(self.delay)
            else:
                link.flight += data
            writer.write(data)
            await writer.drain()


class _Link:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.writers = [client]
        self.lossy = False
        self.silent = False
        self.flight: bytearray | None = None
        """What the client has sent since the server last said something."""

    def reset(self) -> None:
        for writer in self.writers:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


async def _first_of(*ways: Coroutine[Any, Any, None]) -> None:
    """Run both ways of a conversation until one of them ends."""
    tasks = {asyncio.create_task(way) for way in ways}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await _cancel(tasks)


def _start(tasks: set[asyncio.Task[None]], conversation: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(conversation)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    running = list(tasks)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
