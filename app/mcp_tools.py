"""The two tools of readers' own assistants: `search` and `fetch`. Imported only where `MCP_ENABLED` is true.

No model is called; a search costs at most one embedding.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Self

from mcp.server import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)
from sqlalchemy import Row
from starlette.types import Receive, Scope, Send

from app import errors
from app.book.reading import read_page
from app.book.search import PASSAGES, BookSearch
from app.book.shelf import Shelf, comparable
from app.config import Settings
from app.dependencies import StateRequest
from app.errors import ChatError, DatabaseError, RateLimitedError
from app.logs import keep_out_of_log
from app.models import storable
from app.retrieval import Query
from app.tool_usage import ToolCounter
from app.turns import deadline

type _Context = ServerRequestContext[Any, StateRequest]

_DEADLINE_SECONDS = 20.0
"""How long a call may take; what it waits for has earlier deadlines of its own."""
_MOST_TITLES = 10
_LONGEST_ID = 8_000

_READ_ONLY = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
_TEXT = {"type": "string"}
_METADATA = {
    "type": "object",
    "description": "The book it is of: its title, its address, and its language.",
    "properties": {"book": _TEXT, "book_url": _TEXT, "language": _TEXT, "part": _TEXT, "truncated": _TEXT},
    "required": ["book", "book_url"],
}
_FOUND = {
    "type": "object",
    "properties": {"id": _TEXT, "title": _TEXT, "url": _TEXT, "text": _TEXT, "metadata": _METADATA},
    "required": ["id", "title", "url", "text", "metadata"],
}
_RESULTS = {
    "type": "object",
    "properties": {"results": {"type": "array", "items": _FOUND}},
    "required": ["results"],
}


class CallError(ChatError):
    """A call cannot be answered as it is; the message tells the caller's model what to change."""

    status = 400
    code = "validation_error"
    event = None
    retryable = False

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__()


class Tools:
    """Answers the requests to `/mcp`, inside its `async with` block."""

    def __init__(self, settings: Settings, search: BookSearch) -> None:
        self._settings = settings
        self._search = search
        self._counter = ToolCounter(search.database)
        server = Server[Any](
            "book-chat",
            version="1",
            title=settings.book_title,
            instructions="Search the textbook for passages on a question, and fetch the page of a passage to read all of it. "
            "Cite the pages by their addresses.",
            on_list_tools=self._list,
            on_call_tool=self._call,
        )
        self._sessions = StreamableHTTPSessionManager(server, stateless=True, json_response=True)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        # What the SDK logs quotes requests. What fails in a tool is logged here.
        logging.getLogger("mcp").setLevel(logging.CRITICAL)
        await self._stack.enter_async_context(self._sessions.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._sessions.handle_request(scope, receive, send)

    async def _list(self, context: _Context, _params: PaginatedRequestParams | None) -> ListToolsResult:
        titles = ", ".join(self._titles(_address_of_book(context))[:_MOST_TITLES])
        return ListToolsResult(
            tools=[
                Tool(
                    name="search",
                    title="Search the book",
                    description=f"Find the passages on a question in: {titles}. Each result has the passage's text, its "
                    "address for citing it, and the book that it is of. Use `fetch` with a result's id to read its whole page.",
                    input_schema=_input("query", "The question or the words to look for, in the book's language."),
                    output_schema=_RESULTS,
                    annotations=_READ_ONLY,
                ),
                Tool(
                    name="fetch",
                    title="Read a page of the book",
                    description="Return the whole page of a passage as Markdown.",
                    input_schema=_input("id", "The id of a search result, or the address of a page."),
                    output_schema=_FOUND,
                    annotations=_READ_ONLY,
                ),
            ]
        )

    def _titles(self, address: str | None) -> Sequence[str]:
        """Return the titles of the books that are known, without asking the database, which may be asleep."""
        rows = self._search.known_shelf.rows
        of_address = [row for row in rows if address and comparable(row.address) == comparable(address)]
        return list(dict.fromkeys(map(self._title, of_address or rows))) or [self._settings.book_title]

    async def _call(self, context: _Context, params: CallToolRequestParams) -> CallToolResult:
        """Return what the tool answers; whatever goes wrong is a tool error, which the caller's model reads."""
        try:
            answer = await self._answer(context, params)
        except RateLimitedError as error:
            return _failed(f"{error.message} Try again in {error.retry_after} seconds.")
        except DatabaseError as error:
            errors.log(error)
            return _failed("The book could not be read. Please try again.")
        except ChatError as error:
            errors.log(error)
            return _failed(error.message)
        except Exception as error:  # noqa: BLE001  # The SDK would tell the caller its message.
            errors.log(error)
            return _failed(ChatError.message)
        text = json.dumps(answer, ensure_ascii=False)
        return CallToolResult(content=[TextContent(text=text)], structured_content=answer)

    async def _answer(self, context: _Context, params: CallToolRequestParams) -> dict[str, Any]:
        arguments = params.arguments or {}
        address = _address_of_book(context)
        if params.name == "search":
            query = _argument(arguments, "query", longest=self._settings.max_message_chars)
            return await self._admitted(context, "search", partial(self._found, query, address))
        if params.name == "fetch":
            key = _argument(arguments, "id", longest=_LONGEST_ID)
            return await self._admitted(context, "fetch", partial(self._fetched, key, address))
        raise CallError("There is no such tool; there are search and fetch.")

    async def _admitted(
        self, context: _Context, tool: str, answer: Callable[[], Coroutine[Any, Any, dict[str, Any]]]
    ) -> dict[str, Any]:
        """Return the answer, which counts as a question of the caller's address; raises RateLimitedError and OverloadedError."""
        assert context.request is not None  # noqa: S101  # Every request comes by HTTP.
        state = context.request.state
        allowance = await state["limiter"].allowance(context.request, None)
        await allowance()
        self._counter.count(tool)
        found: dict[str, Any] = await state["turns"].run(answer())
        return found

    async def _found(self, query: str, address: str | None) -> dict[str, Any]:
        """Return the passages that fit the query best, those of one section together."""
        async with deadline(_DEADLINE_SECONDS):
            shelf = await self._shelf(address)
            no_question_before = asyncio.get_running_loop().create_future()
            no_question_before.set_result(None)
            page = shelf.book.address if shelf.book else None
            hits = await self._search.search(Query(query, no_question_before, page), limit=PASSAGES)
        results: dict[str, dict[str, Any]] = {}
        for hit in hits:
            if hit.source in results:
                results[hit.source]["text"] += f"\n\n{hit.text}"
                continue
            metadata = self._metadata(shelf.of(hit.source).book)
            found = {"id": hit.source, "title": hit.title, "url": hit.source, "text": hit.text, "metadata": metadata}
            results[hit.source] = found
        return {"results": list(results.values())}

    async def _fetched(self, key: str, address: str | None) -> dict[str, Any]:
        """Return the page that the id names."""
        async with deadline(_DEADLINE_SECONDS):
            shelf = await self._shelf(address)
            book = shelf.of(key).book
            page = await read_page(self._search.database, book, comparable(key)) if book else None
        if page is None:
            raise CallError("There is no page with this id. Please use the id of a result of search.")
        metadata = self._metadata(book)
        if page.part:
            metadata["part"] = page.part
        if not page.is_whole:
            metadata["truncated"] = "true"
        return {"id": key, "title": page.title, "url": page.address, "text": page.text, "metadata": metadata}

    async def _shelf(self, address: str | None) -> Shelf:
        """Return what is known of the books to search; raises CallError if there are none."""
        shelf = await self._search.current_shelf()
        if not shelf.rows:
            raise CallError("There is no book in the database, or it cannot be read at the moment.")
        if address is None:
            return shelf
        book = next((row for row in shelf.rows if comparable(row.address) == comparable(address)), None)
        if book is None:
            known = ", ".join(row.address for row in shelf.rows[:_MOST_TITLES])
            raise CallError(f"There is no book at the address in ?book=. These are some of the books: {known}")
        return Shelf([book], book=book)

    def _metadata(self, book: Row[Any] | None) -> dict[str, str]:
        if book is None:
            return {"book": self._settings.book_title, "book_url": ""}
        language = {"language": book.locale} if book.locale else {}
        return {"book": self._title(book), "book_url": book.address, **language}

    def _title(self, book: Row[Any]) -> str:
        return book.title or self._settings.book_title


def _input(name: str, description: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {**_TEXT, "description": description}}, "required": [name]}


def _address_of_book(context: _Context) -> str | None:
    """Return the address of the one book that the request is about; None if it is about all."""
    assert context.request is not None  # noqa: S101  # Every request comes by HTTP.
    return context.request.query_params.get("book")


def _argument(arguments: Mapping[str, Any], name: str, *, longest: int) -> str:
    """Return a tool's only argument; raises CallError if it cannot be used."""
    value = arguments.get(name)
    if not isinstance(value, str) or not value.strip():
        raise CallError(f"{name} must be a text that is not blank.")
    keep_out_of_log(value)
    if len(value) > longest:
        raise CallError(f"{name} must have at most {longest:,} characters.")
    try:
        # The address of a page can spell a character as %00.
        storable(value), storable(comparable(value))
    except ValueError as error:
        raise CallError(f"{name} {error}.") from None
    return value


def _failed(message: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(text=message)], is_error=True)
