"""Reading in a large book: its rows in bulk, its embeddings side by side, what they cost, and a stop that loses nothing."""

import asyncio
import io
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import event, text
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import dsn
from app.book import changes
from app.book import embeddings as module
from app.book import ingest as storing
from app.book.chunks import Chunk
from app.book.embeddings import Embedder
from app.book.ingest import Report
from app.book.tree import Book
from app.config import Settings
from app.database import Database
from app.models import Document
from tests import commands, kept
from tests.books import clear
from tests.conftest import API_KEY
from tests.fake_openai import FakeOpenAI, embedding, embeddings, failure, held
from tests.marks import on_postgresql

URL = "https://book.example.org/docs/"
PER_PAGE = 20


def book(count: int, *, url: str = URL) -> Book:
    """A book of so many chunks."""
    chunks = [
        Chunk(f"{url}{number // PER_PAGE}#s{number}", f"{url}{number // PER_PAGE}", f"Robots \u203a {number}", number % PER_PAGE, f"Robot {number}.")
        for number in range(count)
    ]  # fmt: skip
    return Book(url, -(-count // PER_PAGE), chunks, [])


@dataclass
class Shop:
    """A database, a model, and what is told while a book is embedded."""

    url: str
    model_server: FakeOpenAI
    told: list[tuple[int, int, int]] = field(default_factory=list)

    async def ingest(self, read: Book, **settings: Any) -> Report:
        values = {"openai_max_retries": 0, **settings}
        configured = Settings(
            database_url=SecretStr(self.url),
            openai_api_key=SecretStr(API_KEY),
            openai_base_url=self.model_server.url,
            **values,
        )
        embedder = Embedder(configured)
        try:
            return await storing.ingest(
                read, configured.database, embedder, on_progress=lambda *now: self.told.append(now)
            )
        finally:
            await embedder.close()

    async def chunks(self) -> list[Document]:
        database = kept.database(dsn.parse(self.url), pool_size=1)
        async with AsyncSession(database.engine) as orm:
            found = sorted((await orm.exec(select(Document))).all(), key=lambda row: (row.page or "", row.position))
        await database.close()
        return found


@pytest.fixture
async def shop(database_url: str, model_server: FakeOpenAI) -> AsyncIterator[Shop]:
    """An empty database of each kind."""

    database = kept.database(dsn.parse(database_url), pool_size=1)
    await clear(database)
    yield Shop(database_url, model_server)
    await clear(database)
    await database.close()


def unit(vector: Sequence[float]) -> Any:
    length = sum(number**2 for number in vector) ** 0.5
    return pytest.approx([number / length for number in vector], abs=1e-6)


# Rows.


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tables that rows were copied to."""
    tables: list[str] = []
    copy = asyncpg.Connection.copy_records_to_table

    async def noting(connection: Any, table: str, **arguments: Any) -> Any:
        tables.append(table)
        return await copy(connection, table, **arguments)

    monkeypatch.setattr(asyncpg.Connection, "copy_records_to_table", noting)
    return tables


@on_postgresql
async def test_rows_are_copied(shop: Shop, copied: list[str]) -> None:
    await shop.ingest(book(3))

    assert copied == ["documents"]
    assert [chunk.content for chunk in await shop.chunks()] == ["Robot 0.", "Robot 1.", "Robot 2."]


@on_postgresql
async def test_where_rows_may_not_be_copied_they_are_inserted_all_the_same(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.ingest(book(3))
    copied = await shop.chunks()
    await shop.ingest(book(1, url=f"{URL}other/"))
    refused = 0

    async def refuse(connection: asyncpg.Connection, *_: Any, **__: Any) -> None:
        nonlocal refused
        refused += 1
        await connection.execute("SELECT 1 / 0")  # As a refusal does, it fails the transaction.

    monkeypatch.setattr(asyncpg.Connection, "copy_records_to_table", refuse)
    monkeypatch.setattr("app.book.ingest._BATCH", 2)
    await shop.ingest(book(5, url=f"{URL}large/"))
    await shop.ingest(book(3, url=f"{URL}again/"))

    inserted = [chunk for chunk in await shop.chunks() if "/again/" in chunk.source]
    assert refused == 2  # Once in each run.
    assert [(chunk.content, chunk.position, chunk.embedding) for chunk in inserted] == [
        (chunk.content, chunk.position, chunk.embedding) for chunk in copied
    ]
    assert [{**chunk.meta, "book": "", "page": ""} for chunk in inserted] == [
        {**chunk.meta, "book": "", "page": ""} for chunk in copied
    ]


@pytest.mark.slow
async def test_embeddings_are_copied_wherever_pgvector_is(
    vector_elsewhere: str, model_server: FakeOpenAI, copied: list[str]
) -> None:
    shop = Shop(vector_elsewhere, model_server)

    await shop.ingest(book(2))

    first, _ = await shop.chunks()
    assert copied == ["documents"]
    assert first.embedding == unit(embedding(f"{first.title}\n\n{first.content}"))


@pytest.mark.slow
@pytest.mark.parametrize("has_changed", [False, True])
async def test_a_run_again_asks_the_database_as_often_for_a_large_book_as_for_a_small_one(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, *, has_changed: bool
) -> None:
    counts = []
    for size in (10, 400):
        await shop.ingest(book(size))
        statements: list[str] = []
        again = book(size)
        if has_changed:
            again.chunks[0] = Chunk(**{**vars(again.chunks[0]), "text": "Something else."})
        with monkeypatch.context() as patch:
            count_statements(patch, statements)
            report = await shop.ingest(again)
        assert report.unchanged == size - has_changed
        counts.append(len(statements))

    assert counts[0] == counts[1] > 0


def count_statements(patch: pytest.MonkeyPatch, statements: list[str]) -> None:
    """Note every statement that is executed from now on."""
    for name in ("command_engine", "Database"):
        make = getattr(storing, name)

        def noting(*arguments: Any, make: Callable[..., Any] = make, **options: Any) -> Any:
            made = make(*arguments, **options)
            engine = made.engine if isinstance(made, Database) else made
            event.listen(engine.sync_engine, "before_cursor_execute", lambda *event: statements.append(event[2]))
            return made

        patch.setattr(storing, name, noting)


async def test_equal_texts_in_many_places_keep_their_rows_and_places(shop: Shop) -> None:
    same = [Chunk(f"{URL}a#s{number}", f"{URL}a", "Robots", number, "The same.") for number in range(300)]
    await shop.ingest(Book(URL, 1, same, []))
    before = {chunk.source: chunk.id for chunk in await shop.chunks()}

    report = await shop.ingest(Book(URL, 1, same[100:], []))

    assert (report.new, report.unchanged, report.deleted) == (0, 200, 100)
    assert {chunk.source: chunk.id for chunk in await shop.chunks()} == {
        chunk.source: before[chunk.source] for chunk in same[100:]
    }


# Embeddings.


async def test_batches_are_embedded_side_by_side_once_the_first_shows_that_they_can_be(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_INPUTS", 2)
    first, gate = asyncio.Event(), asyncio.Event()
    shop.model_server.enqueue_embeddings(held(first, embeddings()), *[held(gate, embeddings())] * 9)

    run = asyncio.create_task(shop.ingest(book(20)))
    await shop.model_server.wait_for_embedding_requests(1)
    assert len(shop.model_server.embedding_requests) == 1
    first.set()
    await shop.model_server.wait_for_embedding_requests(7)
    assert len(shop.model_server.embedding_requests) == 7
    gate.set()

    assert (await run).embedded == 20
    assert sorted(shop.model_server.embedded) == sorted(f"{c.title}\n\n{c.text}" for c in book(20).chunks)
    assert None not in [chunk.embedding for chunk in await shop.chunks()]


LIMITS = {"x-ratelimit-limit-requests": "100", "x-ratelimit-limit-tokens": "1000000"}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-remaining-requests": "1", "x-ratelimit-reset-requests": "1m2.5s"}, 62.5),
        ({"x-ratelimit-remaining-tokens": "19999", "x-ratelimit-reset-tokens": "120ms"}, 0.12),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "2h"}, 120),
        ({"x-ratelimit-remaining-requests": "50", "x-ratelimit-reset-requests": "1m"}, None),
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-reset-requests": "soon"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "soon"}, None),
    ],
)
async def test_the_next_request_waits_until_a_limit_is_full_again(
    headers: dict[str, str], seconds: float | None, model_server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=sleep))
    model_server.enqueue_embeddings(embeddings(headers={**LIMITS, **headers}))
    embedder = Embedder(
        Settings.model_validate(
            {"openai_api_key": API_KEY, "openai_base_url": model_server.url, "database_url": "sqlite://"}
        )
    )
    await embedder.embed(["A robot."])
    assert waits == []
    await embedder.embed(["It walks."])
    await embedder.close()

    assert waits == ([] if seconds is None else [pytest.approx(seconds, rel=0.5)])


async def test_a_provider_that_says_when_to_come_back_is_asked_again_then(shop: Shop) -> None:
    shop.model_server.enqueue_embeddings(
        failure(429, "slow down", **{"retry-after-ms": "1"}), failure(429, **{"retry-after": "0"})
    )

    report = await shop.ingest(book(2), openai_max_retries=2)

    assert report.embedded == 2
    assert len(shop.model_server.embedding_requests) == 3


async def test_what_is_done_left_and_to_be_paid_is_told_before_and_during(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_INPUTS", 2)
    chars = sum(len(f"{chunk.title}\n\n{chunk.text}") for chunk in book(5).chunks)
    usage = {"prompt_tokens": 24, "total_tokens": 24}
    shop.model_server.enqueue_embeddings(*[embeddings(usage=usage)] * 3)

    report = await shop.ingest(book(5))

    assert shop.told[0] == (0, 5, round(chars / 4))
    assert [done for done, _, _ in shop.told] == [0, 2, *sorted(done for done, _, _ in shop.told[2:])]
    assert shop.told[1] == (2, 5, round(chars * 24 / (chars * 2 / 5)))
    assert shop.told[-1] == (5, 5, 72)
    assert report.tokens == 72


def test_the_progress_bar_says_how_much_is_left_and_what_all_of_it_costs() -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120)

    with changes._progress(console, "Embedding") as show:  # noqa: SLF001  # Only a terminal shows it.
        show(300, 50_000, changes._cost("text-embedding-3-small", 15_000_000))  # noqa: SLF001

    assert "300/50000" in shown.getvalue()
    assert "49,700 left, about $0.3000" in shown.getvalue()
    assert changes._cost("nomic-embed-text", 15_000_000) == ""  # noqa: SLF001


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_stop_keeps_every_batch_that_was_asked_for(
    number: signal.Signals, status: int, model_server: FakeOpenAI, tmp_path: Path
) -> None:
    sentence = "It senses, decides and acts, and then it senses again. " * 30
    (tmp_path / "docs").mkdir()
    for page in range(60):
        sections = "".join(f"## Part {part}\n\n{page}. {sentence}\n\n" for part in range(30))
        (tmp_path / f"docs/{page}.md").write_text(f"# Page {page}\n\n{sections}")
    gate = asyncio.Event()
    model_server.enqueue_embeddings(embeddings(), *[held(gate, embeddings())] * 20)

    def start() -> Any:
        # In the background of a script this process ignores SIGINT, and what it starts would inherit that.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return commands.start(
                *("-m", "app.book", "ingest", "docs", "--url", URL),
                folder=tmp_path,
                OPENAI_API_KEY=API_KEY,
                OPENAI_BASE_URL=model_server.url,
            )
        finally:
            signal.signal(signal.SIGINT, before)

    process = start()
    await model_server.wait_for_embedding_requests(7)
    process.send_signal(number)
    gate.set()
    ended, output = await asyncio.to_thread(commands.finish, process)

    asked = len(model_server.embedded)
    assert (ended, "Embeddings that are paid for are kept" in output) == (status, True)
    assert "Traceback" not in output
    assert await rows(tmp_path, "embeddings") == asked > 0
    assert await rows(tmp_path, "documents") == 0

    ended, output = await asyncio.to_thread(commands.finish, start())

    assert ended == 0
    assert sorted(set(model_server.embedded)) == sorted(model_server.embedded)
    assert (await rows(tmp_path, "documents"), await rows(tmp_path, "embeddings")) == (len(model_server.embedded), 0)


async def rows(folder: Path, table: str) -> int:
    database = Database(dsn.parse(f"sqlite:///{folder}/chat.db"), pool_size=1)
    [row] = await database.execute((text(f"SELECT count(*) FROM {table}"), {}))
    await database.close()
    return int(row[0])


async def test_a_stop_waits_only_a_while_for_what_does_not_come(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_INPUTS", 2)
    monkeypatch.setattr(storing, "_STOP_SECONDS", 0.05)
    shop.model_server.enqueue_embeddings(embeddings(), *[held(asyncio.Event())] * 9)

    run = asyncio.create_task(shop.ingest(book(20)))
    await shop.model_server.wait_for_embedding_requests(7)
    run.cancel()

    with pytest.raises(asyncio.CancelledError):
        await run
    assert await shop.chunks() == []
