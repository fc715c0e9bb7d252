"""Readers' own assistants search the books: by the official client, and by requests as other clients send them."""

import asyncio
import json
import subprocess
import sys
from datetime import date
from itertools import product
from typing import Any

import httpx2
import pytest
from sqlalchemy import insert

from app import dsn
from app.book.shelf import SEPARATOR
from app.config import Settings, SettingsError
from app.database import Database
from app.models import ToolUsage
from tests.books import LEGS, WHEELS, Section, opened, replace_book
from tests.conftest import ORIGIN, ROOT, AdminCommand, BookCommand, Serve, Service, eventually, query
from tests.fake_openai import FakeOpenAI, failure

OTHER_BOOK = "https://other.example.org/ur/"
URDU = Section("legs", "روبوٹ چھ ٹانگوں پر چلتا ہے", title="ٹانگیں", locale="ur", book=OTHER_BOOK)
OLD, NEW = "2025-06-18", "2026-07-28"
ACCEPT = {"Accept": "application/json, text/event-stream"}
META = {
    "io.modelcontextprotocol/protocolVersion": NEW,
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


@pytest.fixture
async def service(serve: Serve, database_url: str) -> Any:
    """The service with two books in it."""
    async with opened(database_url) as database:
        await replace_book(
            database, LEGS, WHEELS, URDU, Section("legs", "Its knees bend.", title=f"Legs{SEPARATOR}Knees", position=1)
        )
        yield await serve(MCP_ENABLED="true")


async def post(service: Service, message: Any, *, book: str | None = None, **headers: str) -> httpx2.Response:
    return await service.client.post(
        "/mcp", json=message, params={"book": book} if book is not None else None, headers=ACCEPT | headers
    )


def request(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


async def call(service: Service, tool: str, *, book: str | None = None, **arguments: Any) -> dict[str, Any]:
    """Call a tool as a client of 2025 does."""
    response = await post(service, request("tools/call", name=tool, arguments=arguments), book=book)
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()["result"]
    return result


async def error_of(service: Service, tool: str, *, book: str | None = None, **arguments: Any) -> str:
    result = await call(service, tool, book=book, **arguments)
    assert result["isError"]
    assert "structuredContent" not in result
    return str(result["content"][0]["text"])


async def found(service: Service, question: str, **how: Any) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = (await call(service, "search", query=question, **how))["structuredContent"][
        "results"
    ]
    return results


@pytest.mark.parametrize("mode", ["auto", pytest.param("legacy", marks=pytest.mark.slow)])
async def test_the_official_client_searches_and_reads(service: Service, mode: str) -> None:
    # Every process of the suite would take two seconds to import this, and one of them needs it.
    from mcp import Client  # noqa: PLC0415
    from mcp_types import TextContent  # noqa: PLC0415

    async with Client(f"{service.client.base_url}/mcp".replace("//mcp", "/mcp"), mode=mode) as client:
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == ["search", "fetch"]
        assert all(tool.annotations and tool.annotations.read_only_hint for tool in tools)
        result = await client.call_tool("search", {"query": "How many legs has a hexapod?"})
        [text] = result.content
        assert isinstance(text, TextContent)
        assert json.loads(text.text) == result.structured_content
        best = result.structured_content["results"][0]
        page = await client.call_tool("fetch", {"id": best["id"]})
    assert best == {
        "id": "https://book.example.org/docs/legs#0",
        "title": "Legs",
        "url": "https://book.example.org/docs/legs#0",
        "text": "A hexapod walks on six legs.",
        "metadata": {
            "book": "Physical AI & Humanoid Robotics",
            "book_url": "https://book.example.org/docs/",
            "language": "en",
        },
    }
    assert page.structured_content == {
        "id": best["id"],
        "title": "Legs",
        "url": "https://book.example.org/docs/legs",
        "text": "# Legs\n\nA hexapod walks on six legs.\n\n## Knees\n\nIts knees bend.",
        "metadata": best["metadata"],
    }


async def test_of_a_page_that_is_too_long_the_beginning_is_read_and_that_is_told(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.book.reading.MAX_PAGE_CHARS", 20)

    page = (await call(service, "fetch", id=f"{LEGS.book}legs"))["structuredContent"]

    assert page["text"] == "# Legs\n\nA hexapod wa"
    assert page["metadata"]["truncated"] == "true"


async def test_a_client_of_2025_shakes_hands(service: Service) -> None:
    hello = request("initialize", protocolVersion=OLD, capabilities={}, clientInfo={"name": "test", "version": "1"})
    response = await post(service, hello)
    assert response.headers["content-type"] == "application/json"
    assert "mcp-session-id" not in response.headers
    result = response.json()["result"]
    assert (result["protocolVersion"], "tools" in result["capabilities"]) == (OLD, True)
    ready = await post(
        service, {"jsonrpc": "2.0", "method": "notifications/initialized"}, **{"MCP-Protocol-Version": OLD}
    )
    assert ready.status_code == 202
    listed = await post(service, request("tools/list"), **{"MCP-Protocol-Version": OLD})
    assert [tool["name"] for tool in listed.json()["result"]["tools"]] == ["search", "fetch"]


async def test_a_client_of_2026_needs_no_handshake(service: Service) -> None:
    headers = {"MCP-Protocol-Version": NEW, "Mcp-Method": "server/discover"}
    discovered = (await post(service, request("server/discover", _meta=META), **headers)).json()["result"]
    assert NEW in discovered["supportedVersions"]
    headers |= {"Mcp-Method": "tools/call", "Mcp-Name": "search"}
    asked = request("tools/call", name="search", arguments={"query": "wheels"}, _meta=META)
    result = (await post(service, asked, **headers)).json()["result"]
    assert result["structuredContent"]["results"][0]["text"] == WHEELS.text


async def test_books_are_searched_together_and_one_by_one(service: Service) -> None:
    everywhere = await found(service, "legs ٹانگوں")
    assert {each["metadata"]["book_url"] for each in everywhere} == {LEGS.book, OTHER_BOOK}
    # The address is compared as a page's is: without its scheme, and with or without the slash at its end.
    [urdu] = await found(service, "legs ٹانگوں", book="http://other.example.org/ur")
    assert (urdu["text"], urdu["metadata"]["language"]) == (URDU.text, "ur")
    assert (await call(service, "fetch", id=urdu["id"], book=OTHER_BOOK))["structuredContent"]["title"] == "ٹانگیں"
    assert "There is no page with this id" in await error_of(service, "fetch", id=urdu["id"], book=LEGS.book)
    message = await error_of(service, "search", query="legs", book="https://nowhere.example.org/")
    assert "There is no book at the address" in message
    assert LEGS.book in message


WRONG_CALLS: list[tuple[str, dict[str, Any], str]] = [
    ("search", {}, "query must be a text"),
    ("search", {"query": " "}, "query must be a text"),
    ("search", {"query": 7}, "query must be a text"),
    ("search", {"query": "x" * 8_001}, "query must have at most"),
    ("search", {"query": "a\x00b"}, "query must not contain NUL"),
    ("fetch", {"id": "https://book.example.org/docs/%00"}, "id must not contain NUL"),
    ("fetch", {"id": "https://book.example.org/docs/nothing"}, "There is no page with this id"),
    ("fetch", {"id": "https://[/"}, "There is no page with this id"),
    ("delete", {"id": "1"}, "There is no such tool"),
]


async def test_a_caller_reads_what_is_wrong_with_its_call(service: Service, subtests: pytest.Subtests) -> None:
    for tool, arguments, message in WRONG_CALLS:
        with subtests.test(tool=tool, arguments=str(arguments)[:80]):
            assert message in await error_of(service, tool, **arguments)
    assert not service.log("internal.error")


async def test_the_cause_of_a_failure_is_in_the_log_alone(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("/srv/secret is broken")

    monkeypatch.setattr("app.book.search.BookSearch.search", fail)

    told = await error_of(service, "search", query="legs")

    assert told == "Something went wrong on our side."
    assert "secret is broken" in service.log("internal.error")[0]["error_message"]


HOSTILE = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"\xff",
    json.dumps([request("ping")] * 50).encode(),
    b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"x": ' + b"[" * 5_000 + b"]" * 5_000 + b"}}",
    b'{"jsonrpc": "2.0", "id": ' + b"9" * 5_000 + b', "method": "ping"}',
    b'{"jsonrpc": "2.0", "id": 1, "method": "\\ud800"}',
    b'{"jsonrpc": "2.0", "id": {}, "method": "ping"}',
    b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}',
    b'{"jsonrpc": "2.0", "id": NaN, "method": "ping"}',
]


async def test_a_hostile_body_is_refused(service: Service, subtests: pytest.Subtests) -> None:
    for version, body in product([None, NEW], HOSTILE):
        with subtests.test(version=version, body=body[:80]):
            headers = ACCEPT | {"Content-Type": "application/json"}
            if version:
                headers["MCP-Protocol-Version"] = version
            response = await service.client.post("/mcp", content=body, headers=headers)
            assert response.status_code == 400
            assert response.json()["error"]["code"] < 0


async def test_what_no_client_sends_is_refused(service: Service) -> None:
    plain = await service.client.post("/mcp", content=b"{}", headers=ACCEPT | {"Content-Type": "text/plain"})
    assert (plain.status_code, plain.json()["error"]["code"]) == (400, "validation_error")
    large = await post(service, request("ping", x="x" * 1_000_000))
    assert (large.status_code, large.json()["error"]["code"]) == (413, "payload_too_large")
    assert (await service.client.get("/mcp", headers=ACCEPT)).status_code == 405
    unknown = await post(service, request("resources/list"))
    assert unknown.json()["error"]["code"] == -32601
    from_2030 = await post(service, request("ping", _meta=META), **{"MCP-Protocol-Version": "2030-01-01"})
    assert from_2030.status_code == 400


async def test_only_pages_of_the_book_may_call(service: Service) -> None:
    for origin in ("https://evil.example.org", "null", str(service.client.base_url).rstrip("/")):
        response = await post(service, request("ping"), Origin=origin)
        assert response.status_code == 403
    response = await post(service, request("ping"), Origin=ORIGIN)
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, ORIGIN)


async def test_an_origin_has_to_match_the_pattern_from_end_to_end(serve: Serve) -> None:
    service = await serve(MCP_ENABLED="true", CORS_ORIGIN_REGEX=r"https://[a-z]+\.example\.org")
    statuses = {
        origin: (await post(service, request("ping"), Origin=origin)).status_code
        for origin in (
            "https://book.example.org",
            "https://book.example.org.evil.example",
            "http://https://a.example.org",
        )
    }
    assert [*statuses.values()] == [200, 403, 403], statuses


async def test_calls_count_as_questions_of_their_address(serve: Serve, database_url: str) -> None:
    async with opened(database_url) as database:
        await replace_book(database, LEGS, WHEELS)
        service = await serve(MCP_ENABLED="true", RATE_LIMIT="2/minute")
        await found(service, "legs")
        await call(service, "fetch", id=f"{LEGS.book}legs")
        assert "You are asking too often" in await error_of(service, "search", query="wheels")
        assert (await service.chat()).status_code == 429
        assert (await post(service, request("tools/list"))).status_code == 200


async def test_queries_are_not_logged_and_calls_are_counted(
    service: Service, database_url: str, admin_command: AdminCommand
) -> None:
    secret = "xyzzy-plugh hexapod"
    await asyncio.gather(*(found(service, secret) for _ in range(20)))
    await call(service, "fetch", id=f"{LEGS.book}legs")
    await error_of(service, "search", query=f"{secret} \x00")
    assert "xyzzy" not in service.output

    async def counts() -> list[tuple[Any, ...]]:
        rows = await asyncio.to_thread(query, database_url, "SELECT tool, calls FROM tool_usage ORDER BY tool")
        return [tuple(row) for row in rows]

    async def all_counted() -> bool:
        return await counts() == [("fetch", 1), ("search", 20)]

    await eventually(all_counted)
    assert (await admin_command("report"))[1].endswith("Readers' assistants: searches 20, pages read 1\n")
    assert "assistants" not in (await admin_command("report", "--until", "2026-01-01"))[1]
    assert "assistants" not in (await admin_command("report", "--csv", "-"))[1]
    await asyncio.to_thread(query, database_url, "DELETE FROM tool_usage")


async def test_calls_that_could_not_be_counted_are_counted_with_the_next_one(
    service: Service, database_url: str
) -> None:
    await asyncio.to_thread(query, database_url, "ALTER TABLE tool_usage RENAME TO tool_usage_away")
    try:
        await found(service, "hexapod")
        await eventually(lambda: service.logged("mcp.uncounted"))
    finally:
        await asyncio.to_thread(query, database_url, "ALTER TABLE tool_usage_away RENAME TO tool_usage")

    await found(service, "hexapod")

    async def both_are_counted() -> bool:
        return await asyncio.to_thread(query, database_url, "SELECT calls FROM tool_usage") == [(2,)]

    await eventually(both_are_counted)


async def test_the_report_counts_the_calls_of_its_own_days(service: Service, admin_command: AdminCommand) -> None:
    days = [date(2026, 11, day) for day in (9, 10, 11)]
    async with service.tables.engine.begin() as connection:
        rows = [{"day": day, "tool": "search", "calls": 10 ** (day.day - 9)} for day in days]
        await connection.execute(insert(ToolUsage), rows)

    async def searches(*arguments: str) -> str:
        return (await admin_command("report", *arguments))[1].rpartition("searches ")[2].partition(",")[0]

    assert await searches() == "111"
    assert await searches("--since", "2026-11-10") == "110"
    assert await searches("--until", "2026-11-11T00:00+00:00") == "11"
    assert await searches("--until", "2026-11-11T00:01+00:00") == "111"


async def test_a_database_that_fails_is_a_tool_error(service: Service, database_url: str) -> None:
    await found(service, "hexapod")  # The books are known from now on.
    await asyncio.to_thread(query, database_url, "ALTER TABLE documents RENAME TO documents_away")
    try:
        assert "The book could not be read" in await error_of(service, "search", query="xyzzy-plugh legs")
        assert "The book could not be read" in await error_of(service, "fetch", id=f"{LEGS.book}legs")
    finally:
        await asyncio.to_thread(query, database_url, "ALTER TABLE documents_away RENAME TO documents")
    assert service.log("database.error")
    assert "xyzzy" not in service.output


async def test_without_an_embedding_words_decide(service: Service, model_server: FakeOpenAI) -> None:
    model_server.enqueue_embeddings(failure(500))
    assert (await found(service, "hexapod"))[0]["text"].startswith(LEGS.text)


async def test_it_is_off_by_default(serve: Serve) -> None:
    service = await serve()
    assert (await post(service, request("ping"))).status_code == 404


@pytest.mark.slow
def test_the_sdk_is_not_imported_where_it_is_off() -> None:
    program = "import sys, app.main; sys.exit(any(n.partition('.')[0] in {'mcp', 'mcp_types'} for n in sys.modules))"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_without_the_extra_the_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.config.find_spec", lambda _name: None)
    monkeypatch.setenv("FASTAPI_ENV", "development")
    Settings.load()
    monkeypatch.setenv("MCP_ENABLED", "true")
    with pytest.raises(SettingsError, match="MCP_ENABLED needs the mcp extra: uv sync --extra mcp"):
        Settings.load()


def test_llms_txt_lists_the_pages_of_a_book(book_command: BookCommand, database_url: str) -> None:
    async def store(*sections: Section) -> None:
        database = Database(dsn.parse(database_url), pool_size=1)
        await replace_book(database, *sections)
        await database.close()

    def llms_txt(*arguments: str) -> tuple[int, str]:
        return book_command("llms-txt", *arguments, DATABASE_URL=database_url)

    status, output = llms_txt()
    assert (status, "There is no book in the database" in output) == (1, True)
    knees = Section("legs", "- Its *knees* bend.", title=f"Legs{SEPARATOR}Knees", position=1)
    linked = Section("arms/hand_(left)", "# A\n\nSee [the **arm**](x) " + "and so on " * 30, title="A [hand]")
    asyncio.run(store(LEGS, knees, linked))
    status, output = llms_txt("--full")
    head = f"""# Physical AI & Humanoid Robotics

> A hexapod walks on six legs.

## Pages

- [Legs]({LEGS.book}legs): A hexapod walks on six legs.

## Arms

- [A \\[hand\\]]({LEGS.book}arms/hand_%28left%29): See the arm and so on"""
    assert status == 0
    assert output.startswith(head)
    assert f"# Legs\n\n{LEGS.text}\n\n## Knees\n\n- Its *knees* bend.\n\nSource: {LEGS.book}legs\n" in output
    asyncio.run(store(LEGS, URDU))
    status, output = llms_txt()
    assert (status, "There are several books" in output, OTHER_BOOK in output) == (1, True, True)
    assert llms_txt("--book", "https://nowhere.example.org")[0] == 1
    assert "ٹانگیں" in llms_txt("--book", OTHER_BOOK)[1]
    asyncio.run(store())
