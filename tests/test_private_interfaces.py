"""What the service uses of its libraries without their documentation's promise: an upgrade that moves it fails here, by name."""

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy.util
import uvicorn
from asyncpg import Connection
from fastapi import sse
from limits.aio.storage.redis import RedisStorage
from openai import AsyncOpenAI
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_connection
from sqlalchemy.pool import Pool
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import StreamingResponse
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.connections import BoundedProtocol
from app.pool import ConnectionPool
from tests.conftest import API_KEY, ROOT

OF_NAMED_TUPLES = {"_fields", "_asdict", "_replace", "_make"}
"""Python documents these."""


class Use(NamedTuple):
    """Names that a module uses of a library's class, function or module."""

    module: str
    """Whose code relies on them."""
    library: str
    owner: Callable[[], Any]
    names: tuple[str, ...]
    purpose: str


def _protocol() -> BoundedProtocol:
    config = uvicorn.Config(Starlette(), log_config=None)
    return BoundedProtocol(config, uvicorn.Server(config).server_state, {})


def _pool() -> ConnectionPool:
    return ConnectionPool(lambda: None)


USES = [
    Use(
        "app/connections.py",
        "uvicorn",
        lambda: HttpToolsProtocol,
        (
            "_start_asgi_task",
            "_unset_keepalive_if_required",
            "on_body",
            "on_headers_complete",
            "on_message_begin",
            "on_message_complete",
            "on_response_complete",
        ),
        "methods of its HTTP protocol, which the service's own one overrides or calls",
    ),
    Use(
        "app/connections.py",
        "uvicorn",
        _protocol,
        ("cycle", "flow", "headers", "parser", "pipeline", "timeout_keep_alive_task", "transport"),
        "the state of a connection, and its parser",
    ),
    Use(
        "app/connections.py",
        "uvicorn",
        lambda: inspect.getsource(RequestResponseCycle),
        (
            "self.chunked_encoding = ",
            "self.disconnected = ",
            "self.expected_content_length = ",
            "self.keep_alive = ",
            "self.message_event = ",
            "self.more_body = ",
            "self.response_complete = ",
            "self.response_started = ",
            "self.scope = ",
        ),
        "how far a running request is, and how it is told that its client is gone",
    ),
    Use(
        "app/connections.py",
        "uvicorn",
        lambda: inspect.getsource(HttpToolsProtocol),
        (
            "self.url = ",
            "self._start_asgi_task(",
            "on_response=self.on_response_complete",
            "self.pipeline.appendleft((",
        ),
        "the path of a request, calls of the methods that the service overrides, and the order of the requests that wait",
    ),
    Use(
        "app/connections.py",
        "uvicorn",
        lambda: httptools_impl,
        ("STATUS_LINE",),
        "the first line of a response",
    ),
    Use(
        "app/turns.py",
        "uvicorn",
        lambda: uvicorn.Server(uvicorn.Config(Starlette(), log_config=None)),
        ("should_exit", "server_state", "handle_exit"),
        "the server whose stop is begun by the service",
    ),
    Use(
        "app/turns.py",
        "uvicorn",
        lambda: inspect.getsource(uvicorn.Server.capture_signals),
        ("signal.signal(sig, self.handle_exit)",),
        "the server's handler of signals, a method of the server",
    ),
    Use(
        "app/turns.py",
        "uvicorn",
        lambda: uvicorn.Server(uvicorn.Config(Starlette(), log_config=None)).server_state,
        ("connections", "tasks"),
        "the open connections and running requests, which the service ends at last",
    ),
    Use(
        "app/__main__.py",
        "uvicorn",
        lambda: inspect.signature(uvicorn.run).parameters,
        ("http", "ws", "timeout_keep_alive", "timeout_worker_healthcheck"),
        "options of uvicorn.run",
    ),
    Use(
        "app/pool.py",
        "SQLAlchemy",
        _pool,
        ("_creator", "_recycle", "_orig_logging_name", "_reset_on_return", "_dialect", "_create_connection"),
        "what a pool is made of, and how it makes a connection",
    ),
    Use("app/pool.py", "SQLAlchemy", lambda: Pool, ("_do_get", "_do_return_conn"), "methods that a pool overrides"),
    Use(
        "app/pool.py",
        "SQLAlchemy",
        lambda: inspect.signature(Pool).parameters,
        ("_dispatch",),
        "how a pool hands its listeners on",
    ),
    Use("app/database.py", "SQLAlchemy", lambda: sqlalchemy.util, ("greenlet_spawn",), "the way into its greenlets"),
    Use(
        "app/database.py",
        "SQLAlchemy",
        lambda: inspect.getsource(AsyncAdapt_asyncpg_dbapi),
        ("sqlstate",),
        "the SQLSTATE of an error of asyncpg",
    ),
    Use(
        "app/database.py",
        "SQLAlchemy",
        lambda: AsyncAdapt_aiosqlite_connection,
        ("run_async",),
        "how a listener reaches aiosqlite's connection",
    ),
    Use(
        "app/doctor/server.py",
        "asyncpg",
        lambda: Connection,
        ("_transport",),
        "the connection's socket, to see whether it is encrypted",
    ),
    Use(
        "app/provider.py",
        "openai",
        lambda: AsyncOpenAI(api_key=API_KEY),
        ("_custom_headers", "organization", "project"),
        "headers and payers, which the SDK would read from the environment as they are",
    ),
    Use(
        "app/provider.py",
        "openai",
        lambda: inspect.getsource(AsyncOpenAI._should_retry),  # noqa: SLF001  # That is the point.
        ("x-should-retry",),
        "the header by which a response forbids the SDK's retries",
    ),
    Use(
        "app/ratelimit.py",
        "limits",
        lambda: RedisStorage("async+redis://127.0.0.1:6379", implementation="redispy").bridge,
        ("get_connection",),
        "how its connections to Redis are closed",
    ),
    Use("app/main.py", "Starlette", lambda: CORSMiddleware, ("preflight_response",), "what answers a preflight"),
    Use("app/stream.py", "Starlette", lambda: StreamingResponse, ("init_headers", "stream_response"), "what streams"),
    Use("app/stream.py", "FastAPI", lambda: sse, ("format_sse_event", "KEEPALIVE_COMMENT"), "the form of an event"),
]


@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.module}-{use.library}-{use.names[0]}")
async def test_a_library_still_has_what_the_service_uses_of_it(use: Use) -> None:
    owner = use.owner()

    for name in use.names:
        has_it = name in owner if isinstance(owner, str) or hasattr(owner, "keys") else hasattr(owner, name)
        assert has_it, (
            f"{use.library} {_version(use.library)} has moved `{name}`, which {use.module} uses: {use.purpose}. "
            "Look in the library for what took its place, and change the module and this list."
        )


def _version(library: str) -> str:
    from importlib.metadata import version  # noqa: PLC0415  # Only a failure needs it.

    return version(library.lower())


def _private_names(path: Path) -> Iterator[str]:
    """Yield the private names that a file uses and does not define itself."""
    tree = ast.parse(path.read_text())
    own = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            is_set = isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == "self"
            (own if is_set else used).add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg:
            used.add(node.arg)
        elif isinstance(node, ast.ImportFrom):
            used |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
    private = {name for name in used - own if name.startswith("_") and not name.startswith("__")}
    yield from sorted(private - OF_NAMED_TUPLES)


@pytest.mark.parametrize("path", sorted((ROOT / "app").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_name_of_a_library_is_used_that_is_not_listed_here(path: Path) -> None:
    module = str(path.relative_to(ROOT))
    listed = {name for use in USES if use.module == module for name in use.names}

    assert [name for name in _private_names(path) if name not in listed] == []
