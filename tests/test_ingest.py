"""Reading a book into the database: what is embedded, stored, kept and deleted, and what happens when something fails."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, override

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession

from app import dsn
from app.book import embeddings as module
from app.book.chunks import Chunk
from app.book.embeddings import Embedder
from app.book.ingest import LOCK, IngestError, Report, ingest, remove
from app.book.tree import Book, read_book
from app.commands import CommandSettings
from app.config import Settings
from app.database import Database
from app.models import Document, PaidEmbedding, StoredBook
from tests import commands, kept
from tests.books import clear
from tests.conftest import API_KEY, ROOT, BookCommand, CreateDatabase, Serve, eventually, migrate
from tests.fake_openai import FakeOpenAI, cut, embedding, embeddings, failure, held
from tests.marks import on_postgresql

URL = "https://book.example.org/docs/"
SENTENCE = "It senses, decides and acts, and then it senses again. " * 6
MODEL = "text-embedding-3-small"

type Pages = dict[str, str]


def section(name: str) -> str:
    return f"## {name}\n\n{name}: {SENTENCE}\n\n"


BOOK: Pages = {
    "arms.md": f"# Arms\n\n{section('Shoulder')}{section('Elbow')}",
    "legs.md": f"# Legs\n\n{section('Hip')}{section('Knee')}{section('Ankle')}",
}


@dataclass
class Library:
    """A folder of pages, a database and an embedding model."""

    folder: Path
    url: str
    database: Database
    model_server: FakeOpenAI

    async def ingest(  # noqa: PLR0913  # Each is a choice of the owner's.
        self,
        pages: Pages,
        *,
        url: str = URL,
        locale: str | None = None,
        title: str | None = None,
        key: bool = True,
        model: str = MODEL,
    ) -> Report:
        """Make these the pages of the folder, and read them in."""
        for file in self.folder.rglob("*.md"):
            file.unlink()
        for name, page in pages.items():
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(page)
        embedder = Embedder(self.settings(model)) if key else None
        try:
            return await ingest(read_book(self.folder, url), dsn.parse(self.url), embedder, locale=locale, title=title)
        finally:
            if embedder:
                await embedder.close()

    def settings(self, model: str = MODEL) -> Settings:
        return Settings(
            database_url=SecretStr(self.url),
            openai_api_key=SecretStr(API_KEY),
            openai_base_url=self.model_server.url,
            openai_max_retries=0,
            openai_embedding_model=model,
        )

    async def chunks(self) -> list[Document]:
        """What is stored, in the order of the pages."""
        async with AsyncSession(self.database.engine) as orm:
            return sorted((await orm.exec(select(Document))).all(), key=lambda row: (row.meta["page"], row.position))

    async def paid(self) -> list[str]:
        """The digests of the embeddings that wait for their chunks."""
        async with AsyncSession(self.database.engine) as orm:
            return list((await orm.exec(select(PaidEmbedding.digest))).all())

    async def found_by_words(self) -> set[Any]:
        """The ids in the index of words."""
        rows = await self.database.execute((text("SELECT id FROM document_words"), {}))
        return {str(row.id).replace("-", "") for row in rows}

    def embedded(self) -> list[str]:
        """The titles of the chunks that were sent to the model since it was last asked for them."""
        titles = [text.split("\n")[0] for text in self.model_server.embedded]
        self.model_server.embedding_requests.clear()
        return titles


@pytest.fixture
async def library(database_url: str, model_server: FakeOpenAI, tmp_path: Path) -> AsyncIterator[Library]:
    """An empty library in each kind of database."""
    database = kept.database(dsn.parse(database_url), pool_size=2)
    if database.dsn.sqlite:
        await database.migrate()
    await clear(database)
    folder = tmp_path / "docs"
    folder.mkdir()
    yield Library(folder, database_url, database, model_server)
    await clear(database)
    await database.close()


def titles(chunks: Sequence[Document]) -> list[str]:
    return [chunk.title for chunk in chunks]


ARMS = ["Arms \u203a Shoulder", "Arms \u203a Elbow"]
LEGS = ["Legs \u203a Hip", "Legs \u203a Knee", "Legs \u203a Ankle"]


async def test_every_chunk_is_stored_with_its_embedding_and_found_by_its_words(library: Library) -> None:
    report = await library.ingest(BOOK, locale="en")

    chunks = await library.chunks()
    assert (report.new, report.unchanged, report.deleted, report.embedded, report.without_embedding) == (5, 0, 0, 5, 0)
    assert titles(chunks) == [*ARMS, *LEGS]
    elbow = chunks[1]
    assert elbow.source == f"{URL}arms#elbow"
    assert elbow.position == 1
    assert elbow.content == f"Elbow: {SENTENCE}".strip()
    assert elbow.meta == {
        "book": URL,
        "page": f"{URL}arms",
        "locale": "en",
        "digest": elbow.meta["digest"],
        "model": MODEL,
        "dimensions": 1536,
    }
    expected = embedding(f"{elbow.title}\n\n{elbow.content}")
    length = sum(number**2 for number in expected) ** 0.5
    assert elbow.embedding == pytest.approx([number / length for number in expected], abs=1e-6)
    assert await library.found_by_words() == {chunk.id.hex for chunk in chunks}
    assert await library.paid() == []


async def test_the_same_pages_again_embed_and_change_nothing(library: Library) -> None:
    await library.ingest(BOOK)
    before = await library.chunks()
    library.embedded()

    report = await library.ingest(BOOK)

    assert (report.new, report.unchanged, report.deleted, report.embedded) == (0, 5, 0, 0)
    assert library.embedded() == []
    assert await library.chunks() == before


async def test_only_a_section_that_changed_is_embedded_and_the_others_keep_their_ids(library: Library) -> None:
    await library.ingest(BOOK)
    before = await library.chunks()
    library.embedded()

    report = await library.ingest({**BOOK, "legs.md": BOOK["legs.md"].replace("Knee: It", "Knee: She")})

    after = await library.chunks()
    assert (report.new, report.unchanged, report.deleted, report.embedded) == (1, 4, 1, 1)
    assert library.embedded() == ["Legs \u203a Knee"]
    assert [chunk.id for chunk in before if chunk.title != "Legs \u203a Knee"] == [
        chunk.id for chunk in after if chunk.title != "Legs \u203a Knee"
    ]
    assert after[3].content.startswith("Knee: She")
    assert await library.found_by_words() == {chunk.id.hex for chunk in after}


async def test_a_page_that_is_gone_is_deleted(library: Library) -> None:
    await library.ingest(BOOK)

    report = await library.ingest({"arms.md": BOOK["arms.md"]})

    chunks = await library.chunks()
    assert (report.unchanged, report.deleted) == (2, 3)
    assert titles(chunks) == ARMS
    assert await library.found_by_words() == {chunk.id.hex for chunk in chunks}


async def test_what_moves_keeps_its_id_and_its_embedding(library: Library) -> None:
    await library.ingest(BOOK)
    before = {chunk.title: chunk for chunk in await library.chunks()}
    library.embedded()

    moved = {
        "limbs/01-arms.md": BOOK["arms.md"],
        "legs.md": BOOK["legs.md"].replace("# Legs\n\n", f"# Legs\n\n{section('Toe')}"),
    }
    report = await library.ingest(moved)

    after = {chunk.title: chunk for chunk in await library.chunks()}
    assert (report.new, report.unchanged, report.deleted) == (1, 5, 0)
    assert library.embedded() == ["Legs \u203a Toe"]
    for title, chunk in before.items():
        assert (after[title].id, after[title].embedding) == (chunk.id, chunk.embedding)
    assert after["Arms \u203a Elbow"].source == f"{URL}limbs/arms#elbow"
    assert after["Arms \u203a Elbow"].meta["page"] == f"{URL}limbs/arms"
    assert [after[title].position for title in ("Legs \u203a Toe", *LEGS)] == [0, 1, 2, 3]


async def test_equal_sections_are_embedded_once_and_stored_each(library: Library) -> None:
    page = f"# Robots\n\n{section('Arm')}"
    await library.ingest({"a.md": page, "b.md": page})

    first, second = await library.chunks()
    assert library.embedded() == ["Robots \u203a Arm"]
    assert [first.source, second.source] == [f"{URL}a#arm", f"{URL}b#arm"]
    assert first.embedding == second.embedding

    await library.ingest({"b.md": page})
    assert [chunk.id for chunk in await library.chunks()] == [second.id]


async def test_without_a_key_the_words_are_stored_and_the_same_command_adds_the_embeddings(library: Library) -> None:
    report = await library.ingest(BOOK, key=False)

    before = await library.chunks()
    assert (report.new, report.embedded, report.without_embedding) == (5, 0, 5)
    assert [chunk.embedding for chunk in before] == [None] * 5
    assert len(await library.found_by_words()) == 5

    report = await library.ingest(BOOK)

    after = await library.chunks()
    assert (report.new, report.unchanged, report.embedded, report.without_embedding) == (0, 5, 5, 0)
    assert [chunk.id for chunk in after] == [chunk.id for chunk in before]
    assert None not in [chunk.embedding for chunk in after]
    assert report.replaced == {}


async def test_without_a_key_the_embeddings_that_there_are_stay(library: Library) -> None:
    await library.ingest(BOOK)
    before = await library.chunks()

    report = await library.ingest({**BOOK, "toes.md": section("Toe")}, key=False)

    assert (report.new, report.unchanged, report.without_embedding) == (1, 5, 1)
    assert (await library.chunks())[:5] == before


async def test_embeddings_of_another_model_are_replaced(library: Library) -> None:
    await library.ingest(BOOK)
    before = await library.chunks()
    library.embedded()

    report = await library.ingest(BOOK, model="nomic-embed-text")

    after = await library.chunks()
    assert report.replaced == {(MODEL, 1536): 5}
    assert len(library.embedded()) == 5
    assert {chunk.meta["model"] for chunk in after} == {"nomic-embed-text"}
    assert [chunk.id for chunk in after] == [chunk.id for chunk in before]


async def test_embeddings_with_other_dimensions_are_replaced_as_soon_as_the_model_shows_them(library: Library) -> None:
    await library.ingest(BOOK)
    library.embedded()
    library.model_server.enqueue_embeddings(embeddings(dimensions=8), embeddings(dimensions=8))

    report = await library.ingest({**BOOK, "toes.md": section("Toe")})

    chunks = await library.chunks()
    assert report.replaced == {(MODEL, 1536): 5}
    assert sorted(library.embedded()) == sorted([*ARMS, *LEGS, "toes \u203a Toe"])
    assert {chunk.meta["dimensions"] for chunk in chunks} == {8}
    assert all(chunk.embedding and chunk.embedding[8:] == [0.0] * 1528 for chunk in chunks)


@pytest.mark.parametrize(
    "reply", [failure(500), cut, *(pytest.param(failure(status), marks=pytest.mark.slow) for status in (429, 401))]
)
async def test_after_a_failure_in_the_middle_the_book_is_as_it_was_and_nothing_is_paid_twice(
    reply: Any, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    await library.ingest({"arms.md": BOOK["arms.md"]})
    before = await library.chunks()
    library.embedded()
    monkeypatch.setattr(module, "MOST_INPUTS", 2)
    library.model_server.enqueue_embeddings(embeddings(), reply)

    with pytest.raises(IngestError, match="run the same command again"):
        await library.ingest({"legs.md": BOOK["legs.md"]})

    assert await library.chunks() == before
    assert library.embedded() == LEGS  # The third one in vain.
    assert len(await library.paid()) == 2

    report = await library.ingest({"legs.md": BOOK["legs.md"]})

    assert library.embedded() == ["Legs \u203a Ankle"]
    assert report.embedded == 1
    assert titles(await library.chunks()) == LEGS
    assert await library.paid() == []


async def test_embeddings_that_were_paid_for_under_other_dimensions_are_not_used(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_INPUTS", 2)
    library.model_server.enqueue_embeddings(embeddings(dimensions=8), failure(500))
    with pytest.raises(IngestError):
        await library.ingest({"legs.md": BOOK["legs.md"]})

    await library.ingest({"legs.md": BOOK["legs.md"]})

    chunks = await library.chunks()
    assert {chunk.meta["dimensions"] for chunk in chunks} == {1536}
    assert all(chunk.embedding and any(chunk.embedding[8:]) for chunk in chunks)
    assert await library.paid() == []


async def test_a_model_whose_dimensions_change_within_a_run_is_an_error(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_INPUTS", 2)
    library.model_server.enqueue_embeddings(embeddings(dimensions=8))

    with pytest.raises(IngestError, match="changed their dimensions"):
        await library.ingest({"legs.md": BOOK["legs.md"]})

    assert await library.chunks() == []


async def test_a_book_replaces_only_what_was_read_in_under_its_own_address(library: Library) -> None:
    urdu = {"arms.md": f"# \u0628\u0627\u0632\u0648\n\n{SENTENCE}"}
    await library.ingest(urdu, url=f"{URL}ur/", locale="ur")
    await library.ingest(BOOK, locale="en")

    report = await library.ingest({"legs.md": BOOK["legs.md"]}, locale="en")

    chunks = await library.chunks()
    assert titles(chunks) == [*LEGS, "\u0628\u0627\u0632\u0648"]
    assert chunks[-1].source == f"{URL}ur/arms"
    assert report.others == [(f"{URL}ur/", MODEL, 1)]


async def test_what_another_book_has_in_common_is_not_embedded_again(library: Library) -> None:
    await library.ingest(BOOK)
    library.embedded()

    report = await library.ingest({**BOOK, "toes.md": section("Toe")}, url=f"{URL}1.0/")

    chunks = await library.chunks()
    assert library.embedded() == ["toes \u203a Toe"]
    assert (report.new, report.embedded) == (6, 1)
    by_title: dict[str, list[Document]] = {title: [c for c in chunks if c.title == title] for title in ARMS}
    for first, second in by_title.values():
        assert first.embedding == pytest.approx(second.embedding)
        assert first.id != second.id


async def test_a_book_can_be_removed(library: Library) -> None:
    await library.ingest(BOOK)
    await library.ingest({"arms.md": BOOK["arms.md"]}, url=f"{URL}1.0/")

    assert await remove(URL, dsn.parse(library.url)) == 5

    chunks = await library.chunks()
    assert titles(chunks) == ARMS
    assert await library.found_by_words() == {chunk.id.hex for chunk in chunks}
    with pytest.raises(IngestError, match=f"no book of {URL}\nIt has {URL}1.0/"):
        await remove(URL, dsn.parse(library.url))


async def test_the_chunks_of_others_are_left_alone(library: Library) -> None:
    own = Document(source="own.md", title="Own", position=0, content="Own.", meta={"page": "own"})
    async with AsyncSession(library.database.engine, expire_on_commit=False) as orm:
        orm.add(own)
        await orm.commit()

    report = await library.ingest(BOOK)

    assert own in await library.chunks()
    assert report.others == []


async def test_another_locale_is_noted_without_embedding_again(library: Library) -> None:
    await library.ingest(BOOK)
    library.embedded()

    await library.ingest(BOOK, locale="en")

    assert {chunk.meta["locale"] for chunk in await library.chunks()} == {"en"}
    assert library.embedded() == []
    assert len(await library.found_by_words()) == 5


async def test_a_books_title_stays_until_it_gets_another(library: Library) -> None:
    titles: list[str | None] = []
    for title in (None, "All about robots", None, "More about robots"):
        await library.ingest(BOOK, title=title, key=False)
        titles += [row.title for row in await library.database.execute((select(StoredBook), {}))]

    assert titles == [None, "All about robots", "All about robots", "More about robots"]


@on_postgresql
async def test_the_words_of_a_book_that_gets_another_locale_are_indexed_by_the_rules_of_that_one(
    library: Library,
) -> None:
    async def is_stemmed() -> bool:
        [row] = await library.database.execute((text("SELECT words::text AS words FROM document_words LIMIT 1"), {}))
        return "'sens'" in row.words

    await library.ingest(BOOK, locale="en")
    assert await is_stemmed()

    await library.ingest(BOOK, locale="ur")

    assert not await is_stemmed()


async def test_a_failure_of_the_database_leaves_the_book_as_it_was(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    await library.ingest({"arms.md": BOOK["arms.md"]})
    before = await library.chunks()

    async def fail(_connection: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("app.book.ingest.prune_words", fail)
        with pytest.raises(IngestError, match="the book is as it was: the disk is full"):
            await library.ingest({"legs.md": BOOK["legs.md"]})

    assert await library.chunks() == before
    assert len(await library.found_by_words()) == 2
    library.embedded()
    await library.ingest({"legs.md": BOOK["legs.md"]})
    assert library.embedded() == []


async def test_sqlite_forgets_the_words_of_what_is_gone(migrated_sqlite_url: str) -> None:
    parsed = dsn.parse(migrated_sqlite_url)
    chunks = [Chunk(f"{URL}arms#{name}", f"{URL}arms", "Arms", at, name) for at, name in enumerate(("hand", "elbow"))]

    async def words() -> list[str]:
        rows = await database.execute((text("SELECT content FROM document_words ORDER BY content"), {}))
        return [row.content for row in rows]

    database = Database(parsed, pool_size=1)
    stored = []
    for kept_chunks in (chunks, chunks[1:]):
        await ingest(Book(URL, 1, kept_chunks, []), parsed, None)
        stored.append(await words())
    removed = await remove(URL, parsed)

    assert (stored, removed) == ([["elbow", "hand"], ["elbow"]], 1)
    assert await words() == []
    await database.close()


async def test_two_runs_at_once_leave_one_whole_book(library: Library, tmp_path: Path) -> None:
    other = Library(tmp_path / "other", library.url, library.database, library.model_server)
    other.folder.mkdir()
    gate = asyncio.Event()
    library.model_server.enqueue_embeddings(held(gate, embeddings()), held(gate, embeddings()))

    runs = asyncio.gather(library.ingest(BOOK), other.ingest({"legs.md": BOOK["legs.md"]}))
    await library.model_server.wait_for_embedding_requests(2)
    gate.set()
    await runs

    chunks = await library.chunks()
    assert titles(chunks) in ([*ARMS, *LEGS], LEGS)
    assert None not in [chunk.embedding for chunk in chunks]
    assert await library.found_by_words() == {chunk.id.hex for chunk in chunks}


@on_postgresql
async def test_a_run_waits_while_another_one_stores_its_book(library: Library) -> None:
    waiting = text("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'")
    async with library.database.engine.connect() as other:
        await other.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
        run = asyncio.create_task(library.ingest(BOOK))
        await eventually(lambda: library.database.execute((waiting, {})))
        assert await library.chunks() == []
        await other.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})

    assert (await run).new == 5


@pytest.mark.slow
async def test_readers_are_answered_from_the_old_book_while_the_new_one_is_embedded(
    library: Library, serve: Serve
) -> None:
    await library.ingest({"arms.md": BOOK["arms.md"]})
    before = await library.chunks()
    service = await serve(DATABASE_URL=library.url)
    gate = asyncio.Event()
    library.embedded()
    library.model_server.enqueue_embeddings(held(gate, embeddings()))

    run = asyncio.create_task(library.ingest(BOOK))
    await library.model_server.wait_for_embedding_requests(1)
    response = await service.chat()
    assert response.status_code == 200
    assert await library.chunks() == before
    gate.set()
    await run

    assert titles(await library.chunks()) == [*ARMS, *LEGS]


@pytest.mark.slow
async def test_a_large_book_is_stored_whole(library: Library) -> None:
    pages = {f"page-{number}.md": f"# Page {number}\n\n" + "".join(map(section, "ABCDE")) for number in range(100)}

    report = await library.ingest(pages)

    chunks = await library.chunks()
    assert report.new == len(chunks) == 500
    assert None not in [chunk.embedding for chunk in chunks]
    assert (await library.ingest(pages)).unchanged == 500


@pytest.mark.slow
def test_where_embeddings_cannot_be_compared_none_are_paid_for(tenants_database: str, tmp_path: Path) -> None:
    migrate(tenants_database)
    (tmp_path / "a.md").write_text(section("Arm"))

    class Unused(Embedder):
        @override
        def batches(self, texts: Iterable[str]) -> Iterator[list[str]]:
            raise AssertionError(texts)

    settings = Settings(database_url=SecretStr(tenants_database), openai_api_key=SecretStr(API_KEY))
    report = asyncio.run(ingest(read_book(tmp_path, URL), settings.database, Unused(settings)))

    assert not report.has_pgvector
    assert (report.new, report.without_embedding) == (1, 1)


def test_a_database_that_is_not_migrated_is_refused(create_database: CreateDatabase, tmp_path: Path) -> None:
    database = create_database("postgres")
    (tmp_path / "a.md").write_text("Text.")

    for _ in range(2):
        with pytest.raises(IngestError, match=r"not migrated.*alembic upgrade head"):
            asyncio.run(ingest(read_book(tmp_path, URL), dsn.parse(database), None))
        migrate(database, "0004")


def test_a_database_that_is_away_is_named_as_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("Text.")
    nowhere = dsn.parse("postgresql://nobody@absent.invalid/book")

    with pytest.raises(IngestError, match="The database failed, and the book is as it was"):
        asyncio.run(ingest(read_book(tmp_path, URL), nowhere, None))


# The command itself.

SAMPLE = ("ingest", ROOT / "sample-book/docs", "--url", URL)


@pytest.mark.slow
def test_the_command_without_any_setting_uses_the_database_of_fastapi_dev(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, output = commands.run("-m", "app.book", *SAMPLE, folder=tmp_path)

    assert status == 0
    assert (tmp_path / "chat.db").exists()
    assert "in the database chat.db, since DATABASE_URL is not set" in output
    assert "18 pages" in output
    assert "0 unchanged, 0 deleted" in output
    assert "found by words alone, since OPENAI_API_KEY is not set" in output
    database = CommandSettings.load().database
    monkeypatch.setenv("FASTAPI_ENV", "development")
    assert database == Settings.load().database


@pytest.mark.slow
def test_the_command_reads_dotenv(tmp_path: Path, book_command: BookCommand) -> None:
    (tmp_path / ".env").write_text("DATABASE_URL=sqlite:///other.db\n")
    (tmp_path / "chat.db").unlink()

    status, output = book_command(*SAMPLE)

    assert (status, "in the database other.db:" in output) == (0, True)
    assert (tmp_path / "other.db").exists()
    assert not (tmp_path / "chat.db").exists()


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (("ingest", "absent", "--url", URL), {}, "absent is not a folder"),
        (("ingest", ".", "--url", URL), {}, "holds no Markdown"),
        (("ingest", ".", "--url", "book"), {}, "is not an address such as"),
        (("ingest", ".", "--url", URL), {"FASTAPI_ENV": "production"}, "DATABASE_URL is missing"),
        (("ingest", ".", "--url", URL), {"DATABASE_URL": "mysql://a/b"}, "DATABASE_URL"),
        (("ingest", "."), {}, "--url"),
        (("remove",), {}, "--url"),
        (("remove", "--url", URL), {}, f"The database has no book of {URL}"),
    ],
)
def test_what_the_command_cannot_do_is_an_error(
    arguments: tuple[str, ...], environment: dict[str, str], message: str, book_command: BookCommand
) -> None:
    status, output = book_command(*arguments, **environment)

    assert status in {1, 2}
    assert message in output


@pytest.mark.slow
def test_a_book_that_is_refused_changes_nothing(tmp_path: Path, book_command: BookCommand) -> None:
    book_command(*SAMPLE)
    before = (tmp_path / "chat.db").read_bytes()
    (tmp_path / "empty").mkdir()

    status, _ = book_command("ingest", "empty", "--url", URL)

    assert status == 1
    assert (tmp_path / "chat.db").read_bytes() == before


@pytest.mark.slow
def test_without_the_extra_the_command_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "markdown_it.py").write_text("raise ModuleNotFoundError(\"No module named 'markdown_it'\")")

    status, output = commands.run("-m", "app.book", *SAMPLE, folder=tmp_path)

    assert status == 1
    assert "uv sync --extra book" in output
    assert "Traceback" not in output


@pytest.mark.slow
async def test_an_interrupted_command_leaves_the_book_as_it_was(model_server: FakeOpenAI, tmp_path: Path) -> None:
    model_server.enqueue_embeddings(held(asyncio.Event()))
    # In the background of a script this process ignores the signal, and what it starts would inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = commands.start(
        "-m", "app.book", *SAMPLE, folder=tmp_path, OPENAI_API_KEY=API_KEY, OPENAI_BASE_URL=model_server.url
    )
    signal.signal(signal.SIGINT, before)
    await model_server.wait_for_embedding_requests(1)

    process.send_signal(signal.SIGINT)
    status, output = await asyncio.to_thread(commands.finish, process)

    assert status == 130
    assert "Stopped. Unless its numbers are above, the book is as it was." in output
    assert "Traceback" not in output
    database = Database(dsn.parse(f"sqlite:///{tmp_path}/chat.db"), pool_size=1)
    [row] = await database.execute((text("SELECT count(*) FROM documents"), {}))
    assert row[0] == 0
    await database.close()


@pytest.mark.slow
async def test_the_command_tells_what_it_skipped_and_replaced(
    model_server: FakeOpenAI, tmp_path: Path, book_command: BookCommand
) -> None:
    add: Callable[[str, str], object] = lambda name, page: (tmp_path / name).write_text(page)  # noqa: E731
    folder = tmp_path / "docs"
    folder.mkdir()
    add("docs/arms.md", BOOK["arms.md"])
    add("docs/draft\x1b[2J.md", "---\ndraft: true\n---\nText.")
    arguments = ("ingest", "docs", "--url", URL, "--locale", "en", "--exclude", "x/**")
    environment = {"OPENAI_API_KEY": API_KEY, "OPENAI_BASE_URL": model_server.url}

    await asyncio.to_thread(book_command, *arguments, **environment)
    add("docs/arms.md", BOOK["arms.md"].replace("Elbow", "Wrist"))
    status, output = await asyncio.to_thread(book_command, *arguments, OPENAI_EMBEDDING_MODEL="other", **environment)

    assert status == 0
    assert output.splitlines() == [
        f"{URL} (en), in the database chat.db, since DATABASE_URL is not set:",
        "  1 page, 2 chunks: 1 new, 1 unchanged, 1 deleted",
        "  2 chunks embedded with other",
        f"  1 embedding of {MODEL} with 1536 dimensions replaced",
        "  1 file skipped:",
        "    draft%1B[2J.md is a draft",
    ]


@pytest.mark.slow
async def test_the_command_names_the_books_whose_embeddings_are_of_another_model(
    model_server: FakeOpenAI, tmp_path: Path, book_command: BookCommand
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/arms.md").write_text(BOOK["arms.md"])
    environment = {"OPENAI_API_KEY": API_KEY, "OPENAI_BASE_URL": model_server.url}

    async def read_in(url: str, model: str) -> str:
        arguments = ("ingest", "docs", "--url", url)
        status, output = await asyncio.to_thread(book_command, *arguments, OPENAI_EMBEDDING_MODEL=model, **environment)
        assert status == 0
        return output

    await read_in(f"{URL}1.0/", "old")

    assert "by words alone" not in await read_in(URL, "old")
    assert f"{URL}1.0/ has 2 embeddings of old. Until it is read in again too" in await read_in(URL, "new")
    assert f"{URL} has 2 embeddings of new" in await read_in(f"{URL}1.0/", "old")


@pytest.mark.slow
def test_the_command_knows_the_language_of_a_translation(tmp_path: Path, book_command: BookCommand) -> None:
    folder = tmp_path / "i18n/ur/docusaurus-plugin-content-docs/current"
    folder.mkdir(parents=True)
    (folder / "arms.md").write_text(BOOK["arms.md"])

    _, of_the_path = book_command("ingest", folder, "--url", URL)
    _, of_the_option = book_command("ingest", folder, "--url", URL, "--locale", "pa")

    assert of_the_path.startswith(f"{URL} (ur), ")
    assert of_the_option.startswith(f"{URL} (pa), ")


@pytest.mark.slow
def test_the_kind_says_what_to_read_where_a_folder_could_be_both(tmp_path: Path, book_command: BookCommand) -> None:
    (tmp_path / "both").mkdir()
    (tmp_path / "both/index.html").write_text("<main><h1>Built</h1><p>Text.</main>")
    (tmp_path / "both/a.md").write_text("Text.")
    arguments = ("ingest", "both", "--url", URL)

    status, output = book_command(*arguments)
    assert (status, "--kind site for its HTML, or --kind source for its Markdown" in output) == (1, True)

    for kind, page in (("site", URL), ("source", f"{URL}a")):
        status, output = book_command(*arguments, "--kind", kind)
        assert (status, "1 page, 1 chunk: 1 new" in output) == (0, True)
        assert page in book_command("search", "text")[1]


@pytest.mark.slow
def test_a_folder_that_is_neither_says_what_to_do(tmp_path: Path, book_command: BookCommand) -> None:
    (tmp_path / "pages/build/html").mkdir(parents=True)
    (tmp_path / "pages/a.html").write_text("<main><h1>A</h1><p>Text.</main>")
    arguments = ("ingest", "pages", "--url", URL)

    (tmp_path / "pages/build/html/index.html").write_text("<main><h1>B</h1><p>Text.</main>")
    status, output = book_command(*arguments)
    assert (status, "in pages/build/html, name that folder" in " ".join(output.split())) == (1, True)
    (tmp_path / "pages/build/html/index.html").unlink()

    status, output = book_command(*arguments)
    assert (status, "1 HTML file, but no index.html and no Markdown" in output) == (1, True)
    assert book_command(*arguments, "--kind", "site")[0] == 0


@pytest.mark.slow
def test_books_are_listed_with_their_titles_languages_and_sizes(tmp_path: Path, book_command: BookCommand) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/arms.md").write_text(BOOK["arms.md"])
    arguments = ("ingest", "docs", "--url", URL)

    assert "There is no book in the database" in book_command("list")[1]
    book_command(*arguments, "--title", "  All about\n arms ", "--locale", "en")
    book_command(*arguments)  # The title stays.
    book_command("ingest", "docs", "--url", f"{URL}1.0/", "--locale", "ur")
    status, output = book_command("list")

    assert status == 0
    lines = [line for line in output.splitlines() if "read in on" not in line]
    assert lines == [
        URL,
        "  All about arms",
        "  en, 1 pages, 2 chunks, none embedded",
        f"{URL}1.0/",
        "  Physical AI & Humanoid Robotics (BOOK_TITLE)",
        "  ur, 1 pages, 2 chunks, none embedded",
    ]
    for title in (" ", "x" * 201):
        status, output = book_command(*arguments, "--title", title)
        assert (status, "must have between 1 and 200 characters" in output) == (2, True)
