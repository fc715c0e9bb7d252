"""The service under test: the real application on a real socket, a real database behind it, a fake model on the wire.

Every test file imports this one, so what takes long to import is imported where it is used.
"""

import asyncio
import gc
import io
import json
import logging
import os
import shutil
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
import httpx2
import hypothesis
import pytest
from sqlalchemy import and_, make_url, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import aliased
from sqlalchemy.pool import NullPool
from sqlmodel import col

from app import dsn
from app.config import Settings
from app.models import ChatSession, Message, MessageRole, Pause, TokenUsage, ToolUsage, utc_now
from tests.fake_openai import FakeOpenAI
from tests.patience import PATIENCE_SECONDS
from tests.postgres import PostgresServer, SharedPostgres, postgres_server

if TYPE_CHECKING:
    from playwright.async_api import Page
    from starlette.types import ASGIApp

    from app.retrieval import Retriever
    from tests.browser import Browser, Visit

ROOT = Path(__file__).parents[1]
API_KEY = "sk-test-0123456789-secret"
PASSWORD = "hunter2-hunter2"
READERS_TOKEN = "a-readers-own-token-0001"
STRANGERS_TOKEN = "a-strangers-own-token-02"
ORIGIN = "http://localhost:3000"
"""The origin that may call the service by default."""

# A slow machine disproves nothing.
hypothesis.settings.register_profile("quick", max_examples=25, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=200, deadline=None)
hypothesis.settings.load_profile("quick")

_FUZZED = "test_fuzzed_requests.py"
_OTHERWISE_ON_SQLITE = {
    "test_admin.py",
    "test_health.py",
    "test_models.py",
    "test_search.py",
    "test_words.py",
}
"""Files of which what they test has statements or types of its own for SQLite."""

type AdminCommand = Callable[..., Awaitable[tuple[int, str]]]
type BookCommand = Callable[..., tuple[int, str]]
type CreateDatabase = Callable[[str], str]
type PlugIn = Callable[[Retriever | Exception], None]
type Serve = Callable[..., Awaitable["Service"]]


@pytest.hookimpl(tryfirst=True)  # Before pytest-xdist reads its options.
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite but for slow tests on every core; as soon as pytest is given an argument, it does just what it is told.

    There is one process more than cores, since some tests do nothing but wait.
    """
    if config.invocation_params.args:
        return
    config.option.markexpr = config.option.markexpr or "not slow"
    is_worker = hasattr(config, "workerinput")
    if not (config.option.numprocesses or is_worker):
        config.option.numprocesses = (os.cpu_count() or 1) + 1
        config.option.dist = "worksteal"
        # Each process would compile every module again.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_configure(config: pytest.Config) -> None:
    """Import schemathesis only if `test_fuzzed_requests.py` may run: most files take less time than this import."""
    if config.option.markexpr != "not slow" and any(
        Path(argument).is_dir() or _FUZZED in argument for argument in config.args
    ):
        config.pluginmanager.import_plugin("schemathesis.pytest.plugin")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave `test_fuzzed_requests.py` unread where slow tests are left out, since all of its are."""
    return (config.option.markexpr == "not slow" and collection_path.name == _FUZZED) or None


@pytest.hookimpl(tryfirst=True)  # Before the marks choose.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the SQLite runs of the other files slow: these show already what depends on the database."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec and callspec.params.get("database_url") == "sqlite" and item.path.name not in _OTHERWISE_ON_SQLITE:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage meanwhile: there is next to none, and looking for it takes seconds."""
    gc.disable()
    result = yield
    gc.freeze()
    gc.enable()
    return result


_SHARED = pytest.StashKey[SharedPostgres]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give all processes of pytest-xdist one PostgreSQL server: each would take seconds to make its own."""
    stash = node.config.stash
    if _SHARED not in stash:
        stash[_SHARED] = SharedPostgres()
    node.workerinput["postgres_port"] = stash[_SHARED].port


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop that server."""
    if _SHARED in config.stash:
        config.stash[_SHARED].stop()


@pytest.fixture(scope="session")
def _empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(scope="session")
def _one_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with one certificate: to trust the usual hundred of them takes longer than most tests."""
    first, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----")
    file = tmp_path_factory.mktemp("authority") / "ca.pem"
    file.write_text(first + end)
    return file


@pytest.fixture(autouse=True)
def _clean_environment(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, _empty_folder: Path, _one_authority: Path
) -> None:
    """Keep the developer's own settings out: the variables, and the `.env` of the working directory."""
    monkeypatch.setenv("SSL_CERT_FILE", str(_one_authority))
    for name in (*Settings.model_fields, "openai_org_id", "openai_project_id"):
        monkeypatch.delenv(name.upper(), raising=False)
    has_own_folder = "tmp_path" in request.fixturenames
    monkeypatch.chdir(request.getfixturevalue("tmp_path") if has_own_folder else _empty_folder)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Undo the service's configuration of logging."""
    handlers, level = logging.root.handlers, logging.root.level
    yield
    logging.root.handlers, logging.root.level = handlers, level


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A PostgreSQL server; other processes may use it too, so databases and roles have names of their own."""
    if port := getattr(request.config, "workerinput", {}).get("postgres_port"):
        server = PostgresServer(port)
        server.wait()
        yield server
        return
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest, worker_id: str) -> str:
    """The address of a migrated PostgreSQL database, made anew on TEST_DATABASE_URL's server or on our own."""
    server = os.environ.get("TEST_DATABASE_URL") or request.getfixturevalue("postgres").url()
    database = f"book_chat_{worker_id}"
    query(server, f"DROP DATABASE IF EXISTS {database}", f"CREATE DATABASE {database}")
    url = make_url(server).set(database=database).render_as_string(hide_password=False)
    migrate(url)
    return url


def query(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run the statements, each in a transaction of its own, and return the rows of the last one."""

    async def connect_and_execute() -> list[tuple[Any, ...]]:
        parsed = dsn.parse(url)
        engine = create_async_engine(
            parsed.url, connect_args=parsed.connect_args, poolclass=NullPool, isolation_level="AUTOCOMMIT"
        )
        async with engine.connect() as connection:
            for statement in statements:
                result = await connection.execute(text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []

    return asyncio.run(connect_and_execute())


def migrate(url: str, revision: str = "head") -> None:
    """Run `alembic upgrade`, or `downgrade` for the revision `base`."""
    from alembic import command
    from alembic.config import Config

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        config = Config(ROOT / "alembic.ini", stdout=sys.stdout)
        (command.downgrade if revision == "base" else command.upgrade)(config, revision)


def check(url: str) -> None:
    """Run `alembic check`, which raises where the models and the database differ."""
    from alembic import command
    from alembic.config import Config

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        command.check(Config(ROOT / "alembic.ini", stdout=sys.stdout))


@pytest.fixture
def create_database(postgres: PostgresServer) -> CreateDatabase:
    """Make an empty PostgreSQL database for its owner; returns the owner's address for it."""

    return lambda owner: _make_database(postgres, f"OWNER {owner}").replace("postgres@", f"{owner}@")


def _make_database(postgres: PostgresServer, how: str = "") -> str:
    """Make a database with a name of its own; returns its address."""
    name = f"test_{uuid.uuid4().hex}"
    query(postgres.url(), f"CREATE DATABASE {name} {how}")
    return postgres.url(name)


@pytest.fixture(scope="session")
def postgresql_template(postgres: PostgresServer) -> str:
    """The name of a migrated database, to make others from."""
    url = _make_database(postgres)
    migrate(url)
    return url.rpartition("/")[2]


@pytest.fixture
def migrated_url(postgres: PostgresServer, postgresql_template: str) -> str:
    """A migrated PostgreSQL database of this test's own, with pgvector."""
    return _make_database(postgres, f"TEMPLATE {postgresql_template}")


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("template") / "chat.db"
    migrate(f"sqlite+aiosqlite:///{file}")
    return file


@pytest.fixture
def migrated_sqlite_url(_sqlite_template: Path, tmp_path: Path) -> str:
    """A migrated SQLite database of this test's own."""
    return f"sqlite+aiosqlite:///{shutil.copy(_sqlite_template, tmp_path / 'chat.db')}"


@pytest.fixture
def empty_url(create_database: CreateDatabase) -> str:
    """A PostgreSQL database that is not migrated."""
    return create_database("postgres")


@pytest.fixture
def tenants_database(create_database: CreateDatabase, postgres: PostgresServer) -> str:
    """An empty PostgreSQL database whose owner may not install pgvector."""
    tenant = f"tenant_{uuid.uuid4().hex}"
    query(postgres.url(), f"CREATE ROLE {tenant} LOGIN")
    return create_database(tenant)


@pytest.fixture
def install_pgvector(tenants_database: str, postgres: PostgresServer) -> Callable[[], object]:
    """Install pgvector in the tenant's database, as its superuser can."""
    superusers = postgres.url(tenants_database.rpartition("/")[2])
    return lambda: query(superusers, "CREATE EXTENSION vector")


@pytest.fixture
def array(tenants_database: str) -> str:
    """A PostgreSQL database that was migrated without pgvector."""
    migrate(tenants_database)
    assert column_type(tenants_database) == "real[]"
    return tenants_database


@pytest.fixture
def vector_elsewhere(array: str, postgres: PostgresServer) -> str:
    """A PostgreSQL database that keeps pgvector in a schema of which its owner's search path knows nothing."""
    query(
        postgres.url(array.rpartition("/")[2]),
        "CREATE SCHEMA extensions",
        "GRANT USAGE ON SCHEMA extensions TO PUBLIC",
        "CREATE EXTENSION vector SCHEMA extensions",
        "ALTER TABLE documents ALTER COLUMN embedding TYPE extensions.vector(1536)",
    )
    assert column_type(array) == "extensions.vector"
    return array


def column_type(url: str) -> str:
    [(name,)] = query(
        url,
        "SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = 'documents'::regclass AND attname = 'embedding'",
    )
    return str(name)


@pytest.fixture(scope="session")
def sqlite_url(_sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a migrated SQLite database."""
    return f"sqlite+aiosqlite:///{shutil.copy(_sqlite_template, tmp_path_factory.mktemp('sqlite') / 'chat.db')}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, _kept: None) -> str:
    """The process's migrated database of each kind."""
    from tests import kept

    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    kept.keep(url)
    return url


@pytest.fixture
async def model_server() -> AsyncIterator[FakeOpenAI]:
    """The model, faked on the wire."""
    async with FakeOpenAI().serve() as server:
        yield server


class Tables:
    """What the database holds, read past the service."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine

    async def sessions(self) -> list[ChatSession]:
        """Every session, oldest first."""
        return await self._all(select(ChatSession).order_by(col(ChatSession.created_at)))

    async def messages(self) -> list[Message]:
        """Every message, oldest first."""
        return await self._all(select(Message).order_by(col(Message.created_at), col(Message.id)))

    async def replies(self) -> list[str]:
        """What every recorded answer says, oldest first."""
        return [message.content for message in await self.messages() if message.role is MessageRole.assistant]

    async def _all(self, statement: Any) -> list[Any]:
        async with self.engine.connect() as connection:
            return list((await connection.execute(statement)).all())

    async def expire_claims(self) -> None:
        """Let the claim of the one question that is being answered have run out."""
        reply = aliased(Message)
        is_answered = select(reply).where(col(reply.reply_to) == col(Message.id)).exists()
        claimed = and_(col(Message.answering_until).is_not(None), ~is_answered)
        async with self.engine.begin() as connection:
            expired = await connection.execute(update(Message).where(claimed).values(answering_until=utc_now()))
        assert expired.rowcount == 1

    async def clear(self) -> None:
        """Delete every row, in one round trip."""
        # This engine does not enforce SQLite's foreign keys, so messages would outlive their session.
        tables = (Message, ChatSession, TokenUsage, Pause, ToolUsage)
        script = "".join(f"DELETE FROM {table.__tablename__};" for table in tables)
        async with self.engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            await (driver.executescript if connection.dialect.name == "sqlite" else driver.execute)(script)


class Service:
    """The running service, with a client for it."""

    def __init__(self, client: httpx2.AsyncClient, tables: Tables, stdout: io.StringIO) -> None:
        self.client = client
        self.tables = tables
        self._stdout = stdout
        self._records: list[dict[str, Any]] = []
        self._parsed = 0
        """How many characters of the output have become records."""

    @property
    def output(self) -> str:
        """What was written to stdout so far."""
        return self._stdout.getvalue()

    async def chat(self, message: str = "What is a robot?", **fields: Any) -> httpx2.Response:
        return await self.client.post("/chat", json={"message": message, **fields})

    async def has_recorded(self, content: str) -> bool:
        """Whether there is a message that says this."""
        return content in {message.content for message in await self.tables.messages()}

    async def logged(self, event: str) -> bool:
        """Whether there is a record of this event."""
        return bool(self.log(event))

    def log(self, event: str | None = None) -> list[dict[str, Any]]:
        """The records written so far, or those of one event."""
        new, _, _ = self.output[self._parsed :].rpartition("\n")
        self._parsed += len(new)
        self._records += [json.loads(line) for line in new.splitlines() if line.startswith("{")]
        return [record for record in self._records if event in {None, record["event"]}]


@pytest.fixture(scope="session")
async def _kept() -> AsyncIterator[None]:
    """Close at the end what is open from one test to the next."""
    from tests import kept

    yield
    await kept.close()


@pytest.fixture
async def tables(database_url: str) -> AsyncIterator[Tables]:
    """The tables of the database, without a session or anything that was counted."""
    from tests import kept

    parsed = dsn.parse(database_url)
    if kept.is_kept(database_url):
        tables = Tables(kept.engine(database_url))
        await tables.clear()
        yield tables
        return
    engine = create_async_engine(parsed.url, connect_args=parsed.connect_args, poolclass=NullPool)
    tables = Tables(engine)
    if not parsed.sqlite:  # An embedded one is new.
        await tables.clear()
    yield tables
    await engine.dispose()


@pytest.fixture
async def serve(
    monkeypatch: pytest.MonkeyPatch,
    database_url: str,
    tables: Tables,
    model_server: FakeOpenAI,
) -> AsyncIterator[Serve]:
    """Start the service in production mode, with further environment variables; it stops when the test ends."""
    from tests import kept

    monkeypatch.setattr("app.main.Database", kept.database)
    async with AsyncExitStack() as stack:

        async def start(**environment: str) -> Service:
            defaults = {
                "DATABASE_URL": database_url,
                "OPENAI_API_KEY": API_KEY,
                "OPENAI_BASE_URL": model_server.url,
                "OPENAI_MAX_RETRIES": "0",
            }
            for name, value in {**defaults, **environment}.items():
                monkeypatch.setenv(name, value)
            # Logging keeps the stream that it finds here; capsys has another one in each phase of a test.
            with redirect_stdout(io.StringIO()) as stdout:
                base_url = await stack.enter_async_context(running_service())
            client = await stack.enter_async_context(
                httpx2.AsyncClient(base_url=base_url, timeout=PATIENCE_SECONDS, verify=False)
            )
            return Service(client, tables, stdout)

        yield start


async def eventually(condition: Callable[[], Awaitable[object]], seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until the condition holds, and fail when it does not within so many seconds."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  # What is waited for happens in a database or another process.
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(application: "ASGIApp", listener: socket.socket) -> AsyncIterator[None]:
    """Serve the application on the socket.

    These are the parts of uvicorn's `serve`, without its timers: with them each test takes 0.2 seconds to stop.
    """
    import uvicorn

    from app.connections import KEEP_ALIVE_SECONDS, BoundedProtocol

    # asyncio does so itself, but only for listeners that it made.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(application, http=BoundedProtocol, timeout_keep_alive=KEEP_ALIVE_SECONDS, log_config=None)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    try:
        await server.startup([listener])
    except SystemExit:
        raise RuntimeError("the server did not start") from None
    await server.on_tick(0)  # It prepares the headers of every response.
    try:
        yield
    finally:
        for accepting in server.servers:
            accepting.close()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("app.connections.DRAIN_SECONDS", 0)
            for connection in list(server.server_state.connections):
                connection.shutdown()
        while server.server_state.connections or server.server_state.tasks:  # noqa: ASYNC110  # uvicorn has no event for it.
            await asyncio.sleep(0.005)
        await server.lifespan.shutdown()


@asynccontextmanager
async def running_service() -> AsyncIterator[str]:
    """Serve the service on a free port; gives its address."""
    from app.main import app

    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with running(app, listener):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> PlugIn:
    """Have the service use this retriever; given an exception, whoever asks for the retriever gets that."""
    from app.dependencies import get_retriever
    from app.main import app

    def plug_in(retriever: "Retriever | Exception") -> None:
        async def get_other_retriever() -> "Retriever":
            if isinstance(retriever, Exception):
                raise retriever
            return retriever

        monkeypatch.setitem(app.dependency_overrides, get_retriever, get_other_retriever)

    return plug_in


@pytest.fixture
def book_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, _sqlite_template: Path
) -> BookCommand:
    """Run `python -m app.book` with these arguments and variables, in this process: to start one takes a second.

    Gives the exit status, and everything that was printed, errors first. The embedded database is migrated, which takes as long.
    """
    from app.book.__main__ import main

    shutil.copy(_sqlite_template, tmp_path / "chat.db")

    def run(*arguments: str | Path, **environment: str) -> tuple[int, str]:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["app.book", *map(str, arguments)])
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                status = main()
            except SystemExit as error:
                status = int(error.code or 0)
        printed = capsys.readouterr()
        return status, printed.err + printed.out

    return run


@pytest.fixture
def admin_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> AdminCommand:
    """Run `python -m app.admin` with these arguments, beside the service; gives its status and what it printed, errors first."""
    from app import admin

    async def run(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["app.admin", *map(str, arguments)])
        capsys.readouterr()
        try:
            status = await asyncio.to_thread(admin.main)
        except SystemExit as error:
            status = int(error.code or 0)
        printed = capsys.readouterr()
        return status, printed.err + printed.out

    return run


@pytest.fixture
async def service(serve: Serve) -> Service:
    """The service with nothing but its mandatory settings."""
    return await serve()


@pytest.fixture(scope="session")
async def browser() -> "AsyncIterator[Browser]":
    """A browser, which is there for all tests."""
    from tests.browser import running_browser

    async with running_browser() as browser:
        yield browser


@pytest.fixture
async def visit(browser: "Browser") -> "AsyncIterator[Visit]":
    """Open a page of a book with the service's widget, at the origin that may call the service."""
    from tests.browser import readers

    async with readers(browser) as open_page:

        async def visit(service: Service | str, *, origin: str = ORIGIN, **how: Any) -> "Page":
            address = service if isinstance(service, str) else str(service.client.base_url).rstrip("/")
            return await open_page(address, origin=origin, **how)

        yield visit
