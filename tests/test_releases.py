"""Releases that nobody notices: instances that are stopped and started, and a migration, while readers ask through nginx."""

import asyncio
import io
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from app import dsn
from app.database import REVISION
from tests import commands
from tests.conftest import API_KEY, ROOT, Service, Tables
from tests.fake_openai import FakeOpenAI
from tests.load import Readers, assert_rows_add_up, reading
from tests.postgres import free_port
from tests.test_shutdown import Program

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
RESTARTS = 10
READERS = 8

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(NGINX is None, reason="needs nginx"),
]

LATER_REVISION = """
import sqlalchemy as sa
from alembic import op

from migrations.online import add_columns, create_index

revision, down_revision, branch_labels, depends_on = "9999", "{before}", None, None


def upgrade():
    add_columns("messages", sa.Column("later", sa.Text()))
    create_index("ix_messages_later", "messages", ["later"])


def downgrade():
    op.drop_column("messages", "later")
"""


@pytest.fixture
def database_url(migrated_url: str) -> str:
    return migrated_url


@pytest.fixture
def ports() -> list[int]:
    """The ports of the instances."""
    return [free_port(), free_port()]


@pytest.fixture
def proxy(ports: list[int], tmp_path: Path) -> Iterator[str]:
    """The address of nginx, which runs with the example of the documentation."""
    [example] = re.findall("```nginx\n(.*?)```", (ROOT / "docs" / "deployment.md").read_text(), re.DOTALL)
    port = free_port()
    for old, new in {"127.0.0.1:8001": ports[0], "127.0.0.1:8002": ports[1], "listen 80;": port}.items():
        assert old in example
        example = example.replace(old, f"listen 127.0.0.1:{new};" if old.startswith("listen") else f"127.0.0.1:{new}")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in kinds)
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; events {{}}\n"
        f"http {{ access_log {tmp_path}/access.log; {temporary}\n{example} }}"
    )
    assert NGINX is not None
    with subprocess.Popen([NGINX, "-c", tmp_path / "nginx.conf", "-e", tmp_path / "error.log"]) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


class Instance:
    """One instance of the service, as it is started on a machine of one's own."""

    def __init__(self, folder: Path, port: int, **environment: str) -> None:
        self._folder = folder
        self._environment = {**environment, "PORT": str(port), "HOST": "127.0.0.1"}
        self._program: Program | None = None

    async def start(self) -> None:
        process = commands.start("-m", "app", folder=self._folder, **self._environment)
        self._program = Program(process, workers=1)
        await self._program.started()

    async def stop(self) -> None:
        assert self._program is not None
        self._program.stop()
        assert await self._program.ended() == 0
        await asyncio.to_thread(self._program.kill)
        self._program = None

    async def kill(self) -> None:
        if self._program:
            await asyncio.to_thread(self._program.kill)


@pytest.fixture
async def instances(
    ports: list[int], database_url: str, model_server: FakeOpenAI, tmp_path: Path
) -> AsyncIterator[list[Instance]]:
    environment = {"DATABASE_URL": database_url, "OPENAI_API_KEY": API_KEY, "OPENAI_BASE_URL": model_server.url}
    running = [Instance(tmp_path, port, **environment) for port in ports]
    for instance in running:
        await instance.start()
    yield running
    for instance in running:
        await instance.kill()


@asynccontextmanager
async def asking(proxy: str, database_url: str) -> AsyncIterator[tuple[Service, Readers]]:
    parsed = dsn.parse(database_url)
    engine = create_async_engine(parsed.url, connect_args=parsed.connect_args, poolclass=NullPool)
    async with httpx2.AsyncClient(base_url=proxy, timeout=60) as client:
        service = Service(client, Tables(engine), io.StringIO())
        async with reading(service, readers=READERS, pause=0.1) as readers:
            yield service, readers
    await engine.dispose()


async def test_no_turn_fails_while_instances_are_replaced_and_a_migration_runs(
    proxy: str, instances: list[Instance], database_url: str, tmp_path: Path
) -> None:
    versions = tmp_path / "versions"
    versions.mkdir()
    (versions / "9999_later.py").write_text(LATER_REVISION.format(before=REVISION))
    (tmp_path / "alembic.ini").write_text(
        f"[alembic]\nscript_location = {ROOT}/migrations\nprepend_sys_path = {ROOT}\npath_separator = os\n"
        f"version_locations = {ROOT}/migrations/versions:{versions}\n"
    )
    alembic = ("-m", "alembic", "-c", tmp_path / "alembic.ini", "upgrade", "head")

    async with asking(proxy, database_url) as (service, readers):
        await readers.go_on(READERS, 60)
        migrating = asyncio.create_task(
            asyncio.to_thread(commands.run, *alembic, folder=tmp_path, DATABASE_URL=database_url)
        )
        for number in range(RESTARTS):
            instance = instances[number % 2]
            await instance.stop()
            await instance.start()
            await readers.go_on(READERS, 60)
        status, output = await migrating

    assert status == 0, output
    assert "-> 9999" in output
    assert [(response.status_code, response.text) for _, response in readers.failures] == []
    assert len(readers.turns) > 10 * RESTARTS
    await assert_rows_add_up(service.tables, readers.turns)
