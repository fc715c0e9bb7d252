"""The application: lifespan, middleware, routers."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from http import HTTPStatus
from importlib.util import find_spec
from typing import TYPE_CHECKING, override

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app import chat, chatkit, errors, health, history, logs, mcp, readers, regeneration, stream, widget
from app.broadcast import Broadcasts
from app.budget import Budget
from app.config import Environment, Settings
from app.connections import bound_connections
from app.database import Database
from app.dependencies import State
from app.llm import LanguageModel
from app.pause import Pauses
from app.ratelimit import RateLimiter
from app.retrieval import RetrievalWatch, Retriever, retrieve_nothing
from app.turns import TurnMiddleware, Turns, on_stop_signal

if TYPE_CHECKING:
    from app.mcp_tools import Tools

logger = logging.getLogger(__name__)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[State]:
    """Read the settings, open what the turns need, and close it at the end."""
    logs.configure(Environment())  # A refusal to start is logged like everything else.
    settings = Settings.load()
    logs.configure(settings)
    async with AsyncExitStack() as stack:
        database = Database(settings.database, pool_size=settings.database_pool_size)
        stack.push_async_callback(database.close)
        budget = Budget(settings, database)
        model = LanguageModel(settings, budget.spend)
        stack.push_async_callback(model.close)
        if database.dsn.sqlite:
            await database.migrate()
        else:
            checking = asyncio.create_task(
                database.check_revision(counts_tokens=settings.daily_token_budget is not None)
            )
            stack.callback(checking.cancel)
        limiter = RateLimiter(settings)
        stack.push_async_callback(limiter.close)
        turns = Turns(limit=settings.max_concurrent_turns, grace_seconds=settings.shutdown_grace_seconds)
        stack.push_async_callback(turns.close)
        bound_connections()  # It finds the server by its handler of signals, in whose place ours comes next.
        stack.enter_context(on_stop_signal(turns.end, grace_seconds=settings.shutdown_grace_seconds))
        retriever = await stack.enter_async_context(open_retriever(settings, database))
        mcp_tools = await _open_mcp_tools(settings, database, retriever, stack) if settings.mcp_enabled else None
        _warn_of_gaps(settings)
        # The objects that exist now will stay. Looking through them again and again would be most of the garbage
        # collector's work.
        gc.freeze()
        stack.callback(gc.unfreeze)
        yield State(
            settings=settings,
            database=database,
            model=model,
            retriever=retriever,
            retrieval_watch=RetrievalWatch(),
            turns=turns,
            broadcasts=Broadcasts(),
            limiter=limiter,
            budget=budget,
            pauses=Pauses(database),
            mcp_tools=mcp_tools,
        )


def open_retriever(settings: Settings, database: Database) -> AbstractAsyncContextManager[Retriever]:
    """Return what looks up passages for a question, inside its `async with` block: the place to plug in another retriever."""
    if find_spec("app.book") is None:  # The folder can be taken away.
        return nullcontext(retrieve_nothing)
    from app.book.sample import SampleSearch  # noqa: PLC0415
    from app.book.search import BookSearch  # noqa: PLC0415

    is_default = settings.development and settings.database_url is None
    return (SampleSearch if is_default else BookSearch)(settings, database)


async def _open_mcp_tools(
    settings: Settings, database: Database, retriever: Retriever, stack: AsyncExitStack
) -> "Tools":
    """Return what serves `/mcp`; it searches with the retriever if that is the book's own."""
    from app.book.search import BookSearch  # noqa: PLC0415  # The folder can be taken away.
    from app.mcp_tools import Tools  # noqa: PLC0415  # The SDK takes long to import, and is an extra.

    if isinstance(retriever, BookSearch):
        search = retriever
    else:
        search = await stack.enter_async_context(BookSearch(settings, database))
    return await stack.enter_async_context(Tools(settings, search))


def _warn_of_gaps(settings: Settings) -> None:
    if settings.openai_api_key is None:
        logger.warning("openai.offline", extra={"fields": {"reason": "OPENAI_API_KEY is not set; answers only quote"}})
    if settings.database_url is None:
        path = settings.database.url.database
        logger.warning("database.embedded", extra={"fields": {"reason": "DATABASE_URL is not set", "path": path}})
    if settings.rate_limit is None and settings.daily_token_budget is None and not settings.development:
        reason = "neither RATE_LIMIT nor DAILY_TOKEN_BUDGET is set; whoever finds the address can ask the model as often as they like"
        logger.warning("openai.unlimited", extra={"fields": {"reason": reason}})


def _tell_of_missing_lifespan() -> None:
    logs.configure(Environment())
    reason = "the server has not run the application's lifespan; with uvicorn, leave out --lifespan off"
    logger.critical("lifespan.missing", extra={"fields": {"reason": reason}})


class _CORS(CORSMiddleware):
    """Starlette's middleware, whose refusals have the body of every other error."""

    @override
    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == HTTPStatus.OK:
            return response
        allowed = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return errors.invalid_request("Origin", bytes(response.body).decode(), allowed)


class CORSFromSettings:
    """Starlette's CORSMiddleware with the origins from the settings, which are read at the start, not at import."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        settings: Settings | None = scope.get("state", {}).get("settings")
        if settings is None:
            _tell_of_missing_lifespan()
            response = await errors.respond_to_error(Request(scope), errors.NotStartedError())
            await response(scope, receive, send)
            return
        # The widget's scripts say themselves that every page may load them.
        if scope["path"].startswith(("/widget.js", "/widget/")):
            await self.app(scope, receive, send)
            return
        cors = _CORS(
            self.app,
            allow_origins=settings.cors_origins,
            allow_origin_regex=settings.cors_origin_regex,
            allow_methods=("GET", "POST", "PUT", "DELETE"),
            # The ChatKit widget sends the last two.
            allow_headers=(
                "Idempotency-Key",
                "X-Reader-Token",
                "X-Request-ID",
                "ChatKit-Device-Id",
                "ChatKit-Frame-Instance-Id",
                # A client of the Model Context Protocol in a browser sends these.
                "MCP-Protocol-Version",
                "Mcp-Method",
                "Mcp-Name",
            ),
            expose_headers=("Retry-After", "X-Request-ID"),
        )
        await cors(scope, receive, send)


app = FastAPI(
    title="Book chat",
    summary="The chat backend of an online textbook.",
    version="0.1.0",
    lifespan=lifespan,
    telemetry={"logs": False},  # They would quote readers; the service writes its own.
    redirect_slashes=False,  # The redirect's address would have the host that the client named.
    exception_handlers=errors.HANDLERS,
)
app.include_router(chat.router)
app.include_router(stream.router)
app.include_router(regeneration.router)
app.include_router(history.router)
app.include_router(readers.router)
app.include_router(chatkit.router)
app.include_router(mcp.router)
app.include_router(health.router)
app.include_router(widget.router)
# The last one added is the outermost.
app.add_middleware(errors.ErrorMiddleware)
app.add_middleware(CORSFromSettings)
app.add_middleware(logs.RequestLogMiddleware)
app.add_middleware(TurnMiddleware)
app.add_middleware(logs.StartLogMiddleware)
