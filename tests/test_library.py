"""A database of many chunks and many books: each search touches one book, and what is near is found through an index."""

import asyncio
import math
import random
import uuid
from collections.abc import AsyncIterator, Iterable

import pytest
from sqlalchemy import text

from app import dsn
from app.book.chunks import Chunk
from app.book.embedding_index import Indexing, index_embeddings
from app.book.embeddings import Embedder
from app.book.evaluation import known
from app.book.ingest import ingest, remove
from app.book.search import BookSearch, Hit
from app.book.shelf import EMBEDDING_INDEX, book_id, version_of
from app.book.tree import Book
from app.config import Settings
from app.database import Database, command_engine
from app.logs import RequestContext, _current
from app.retrieval import Query
from tests.books import BOOK, Section, opened, replace_book
from tests.conftest import API_KEY, check
from tests.fake_openai import FakeOpenAI, json_body
from tests.kept import with_own_connections

EXACT = 50
"""Above how many chunks the index is used in these tests."""

PLAN_AS_FOR_MANY_CHUNKS = text("SET enable_sort = off")
"""What few chunks there are would be sorted, since that is faster."""

OTHER_BOOK = "https://book.example.org/other/"


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    # Of one connection, so that what it has done is known: see `scans`.
    async with opened(with_own_connections(postgres_url), pool_size=1) as database:
        await database.execute((PLAN_AS_FOR_MANY_CHUNKS, {}))
        yield database
        await database.execute((text(f"DROP INDEX IF EXISTS {EMBEDDING_INDEX}"), {}))


def searching(database: Database, model_server: FakeOpenAI, *, exact_chunks: int = EXACT) -> BookSearch:
    values = {"fastapi_env": "development", "openai_api_key": API_KEY, "openai_base_url": model_server.url}
    return BookSearch(Settings.model_validate(values), database, embedding_seconds=30.0, exact_chunks=exact_chunks)


def near(vector: list[float], numbers: random.Random, distance: float) -> list[float]:
    return [number + distance * numbers.gauss() for number in vector]


def a_book(count: int, *, book: str = BOOK, around: list[float] | None = None, distance: float = 1.0) -> list[Section]:
    """A book of so many chunks, whose vectors of few dimensions lie around one."""
    numbers = random.Random(f"{book} {count}")
    around = around or [0.0] * 8
    return [
        Section(f"p{number}", f"Text number{number}.", book=book, vector=near(around, numbers, distance))
        for number in range(count)
    ]


QUESTION = [1.0, *[0.0] * 7]


def cosine(vector: list[float] | None) -> float:
    assert vector is not None
    return math.sumprod(vector, QUESTION) / math.hypot(*vector)


def nearest(sections: Iterable[Section], count: int) -> list[str]:
    ranked = sorted(sections, key=lambda section: cosine(section.vector), reverse=True)
    return [f"{section.book}{section.page}" for section in ranked[:count]]


async def find(search: BookSearch, model_server: FakeOpenAI, *, page: str | None = None) -> list[Hit]:
    """Search by meaning: no chunk has the word."""
    model_server.enqueue_embeddings(json_body({"data": [{"index": 0, "embedding": QUESTION}]}))

    return await search.search(Query(f"optics {uuid.uuid4().hex}", known(None), page), limit=20)


async def scans(database: Database) -> int:
    """How often the index of embeddings was walked through."""
    await database.execute((text("SELECT pg_stat_force_next_flush()"), {}))
    statement = text("SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = :name")
    [row] = await database.execute((statement, {"name": EMBEDDING_INDEX}))
    count: int = row.idx_scan
    return count


async def made(database: Database) -> Indexing:
    """Make the index, if it is needed."""
    engine = command_engine(database.dsn)
    try:
        return await index_embeddings(engine, exact_chunks=EXACT)
    finally:
        await engine.dispose()


async def is_valid(database: Database) -> bool | None:
    statement = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    rows = await database.execute((statement, {"name": EMBEDDING_INDEX}))
    return rows[0].indisvalid if rows else None


def a_source(url: str, chunks: list[Chunk]) -> Book:
    return Book(url=url, chunks=chunks, pages=len(chunks), skipped=[])


# The index of embeddings


async def test_a_large_book_is_searched_through_the_index_and_a_small_one_exactly(
    database: Database, model_server: FakeOpenAI
) -> None:
    large, small = a_book(300), a_book(EXACT, book=OTHER_BOOK)
    await replace_book(database, *large, *small)
    assert await made(database) == Indexing(made=350)

    async with searching(database, model_server) as search:
        hits = await find(search, model_server, page=f"{BOOK}p1")
        after_large = await scans(database)
        of_small = await find(search, model_server, page=f"{OTHER_BOOK}p1")
        after_small = await scans(database)
        of_all = await find(search, model_server)
        after_all = await scans(database)

    assert (after_large, after_small, after_all) == (1, 1, 2)
    assert [hit.page for hit in of_small] == nearest(small, 20)
    assert len({hit.page for hit in hits} & {*nearest(large, 20)}) >= 19
    assert len({hit.page for hit in of_all} & {*nearest([*large, *small], 20)}) >= 19
    assert [hit.meaning_rank for hit in hits] == [*range(1, 21)]


async def test_a_large_book_that_is_little_of_a_library_is_searched_exactly(
    database: Database, model_server: FakeOpenAI
) -> None:
    large = a_book(25)
    await replace_book(database, *large, *a_book(300, book=OTHER_BOOK))
    await made(database)

    async with searching(database, model_server, exact_chunks=20) as search:
        hits = await find(search, model_server, page=f"{BOOK}p1")

    assert await scans(database) == 0
    assert [hit.page for hit in hits] == nearest(large, 20)


async def test_few_chunks_get_no_index(database: Database, model_server: FakeOpenAI) -> None:
    await replace_book(database, *a_book(EXACT))

    assert await made(database) == Indexing()
    assert await is_valid(database) is None


async def test_a_search_through_the_index_is_one_statement_and_leaves_no_setting_behind(
    database: Database, model_server: FakeOpenAI
) -> None:
    await replace_book(database, *a_book(300))
    await made(database)

    async with searching(database, model_server) as search:
        await find(search, model_server)
        request = RequestContext("search")
        _current.set(request)
        await find(search, model_server)

    assert request.database_statements == 1
    [row] = await database.execute((text("SELECT current_setting('hnsw.iterative_scan', true) AS iterative"), {}))
    assert row.iterative in {None, "", "off"}
    assert await scans(database) == 2


@pytest.mark.slow
async def test_a_book_is_found_among_others_that_are_nearer(database: Database, model_server: FakeOpenAI) -> None:
    large = a_book(100, around=[0.0, 1.0, *[0.0] * 6], distance=0.1)
    others = a_book(400, book=OTHER_BOOK, around=QUESTION, distance=0.01)
    await replace_book(database, *large, *others)
    await made(database)

    async with searching(database, model_server) as search:
        hits = await find(search, model_server, page=f"{BOOK}p1")

    assert await scans(database) == 1
    assert len({hit.page for hit in hits} & {*nearest(large, 20)}) >= 18


@pytest.mark.slow
async def test_an_older_pgvector_compares_a_book_exactly_and_all_books_through_the_index(
    database: Database, model_server: FakeOpenAI
) -> None:
    large = a_book(100, around=[0.0, 1.0, *[0.0] * 6], distance=0.1)
    others = a_book(400, book=OTHER_BOOK, around=QUESTION, distance=0.01)
    await replace_book(database, *large, *others)
    await made(database)
    [row] = await database.execute((text("SELECT extversion FROM pg_extension WHERE extname = 'vector'"), {}))
    assert version_of(row.extversion) >= (0, 8)
    version = text("UPDATE pg_extension SET extversion = :version WHERE extname = 'vector'")
    await database.execute((version, {"version": "0.7.4"}))
    try:
        async with searching(database, model_server) as search:
            hits = await find(search, model_server, page=f"{BOOK}p1")
            after_one = await scans(database)
            of_all = await find(search, model_server)
    finally:
        await database.execute((version, {"version": row.extversion}))

    assert (after_one, await scans(database)) == (0, 1)
    assert [hit.page for hit in hits] == nearest(large, 20)
    assert {hit.page.startswith(OTHER_BOOK) for hit in of_all} == {True}


async def test_a_pgvector_that_cannot_index_half_precision_is_named(
    database: Database, model_server: FakeOpenAI
) -> None:
    await replace_book(database, *a_book(EXACT + 1))
    [row] = await database.execute((text("SELECT extversion FROM pg_extension WHERE extname = 'vector'"), {}))
    version = text("UPDATE pg_extension SET extversion = :version WHERE extname = 'vector'")
    await database.execute((version, {"version": "0.6.2"}))
    try:
        assert await made(database) == Indexing(failure="pgvector 0.6.2 cannot index embeddings, 0.7 can")
        async with searching(database, model_server) as search:
            assert len(await find(search, model_server)) == 20
    finally:
        await database.execute((version, {"version": row.extversion}))


@pytest.mark.slow
async def test_an_index_whose_making_was_interrupted_is_not_used_and_is_made_anew(
    database: Database, model_server: FakeOpenAI
) -> None:
    await replace_book(database, *a_book(300))
    await made(database)
    interrupted = text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = to_regclass(:name)")
    await database.execute((interrupted, {"name": EMBEDDING_INDEX}))

    async with searching(database, model_server) as search:
        hits = await find(search, model_server)
    assert [hit.page for hit in hits] == nearest(a_book(300), 20)
    assert await scans(database) == 0

    assert await made(database) == Indexing(made=300)
    assert await is_valid(database) is True
    assert await made(database) == Indexing(), "it is there"


async def test_while_another_process_migrates_or_indexes_nothing_is_made(database: Database) -> None:
    await replace_book(database, *a_book(EXACT + 1))
    other = command_engine(database.dsn)
    async with other.connect() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": 0x626F6F6B})

        assert await made(database) == Indexing()
    await other.dispose()

    assert await made(database) == Indexing(made=EXACT + 1)


async def test_a_role_that_may_not_index_is_told_so(database: Database) -> None:
    await replace_book(database, *a_book(EXACT + 1))
    for statement in ("DROP ROLE IF EXISTS writer", "CREATE ROLE writer LOGIN", "GRANT SELECT ON books TO writer"):
        await database.execute((text(statement), {}))
    name = database.dsn.url.database
    writer = dsn.parse(f"postgresql://writer@{database.dsn.url.host}:{database.dsn.url.port}/{name}")
    engine = command_engine(writer)
    try:
        assert await index_embeddings(engine, exact_chunks=EXACT) == Indexing(
            failure="must be owner of table documents"
        )
    finally:
        await engine.dispose()
        await database.execute((text("DROP OWNED BY writer"), {}))


@pytest.mark.slow
async def test_without_pgvector_there_is_nothing_to_index(array: str) -> None:
    async with opened(array) as database:
        await replace_book(database, *a_book(EXACT + 1))

        assert await made(database) == Indexing()


@pytest.mark.slow
async def test_the_index_is_made_and_used_wherever_pgvector_is(vector_elsewhere: str, model_server: FakeOpenAI) -> None:
    async with opened(vector_elsewhere, pool_size=1) as database:
        await database.execute((PLAN_AS_FOR_MANY_CHUNKS, {}))
        await replace_book(database, *a_book(300))
        assert await made(database) == Indexing(made=300)
        async with searching(database, model_server) as search:
            hits = await find(search, model_server)

        assert await scans(database) == 1
    assert len({hit.page for hit in hits} & {*nearest(a_book(300), 20)}) >= 19
    await asyncio.to_thread(check, vector_elsewhere)


async def test_reading_a_book_in_makes_the_index_and_says_so(database: Database, model_server: FakeOpenAI) -> None:
    values = {"fastapi_env": "development", "openai_api_key": API_KEY, "openai_base_url": model_server.url}
    embedder = Embedder(Settings.model_validate(values))
    chunks = [Chunk(f"{BOOK}p{n}#0", f"{BOOK}p{n}", "Robots", 0, f"Text {n}") for n in range(12)]
    try:
        report = await ingest(a_source(BOOK, chunks), database.dsn, embedder, exact_chunks=11)
        again = await ingest(a_source(BOOK, chunks[1:]), database.dsn, embedder, exact_chunks=11)
    finally:
        await embedder.close()

    assert (report.indexing, again.indexing) == (Indexing(made=12), Indexing())
    assert await is_valid(database) is True


# The counts of words


COUNTED = """
    SELECT lexeme, book_id, count(*) FROM document_words, unnest(words) GROUP BY lexeme, book_id ORDER BY lexeme, book_id
"""


async def test_the_counts_of_words_are_those_of_the_chunks(database: Database) -> None:
    async def counts() -> list[tuple[str, uuid.UUID, int]]:
        kept = text("SELECT lexeme, book_id, chunks FROM book_words ORDER BY lexeme, book_id")
        assert [*await database.execute((kept, {}))] == [*await database.execute((text(COUNTED), {}))]
        are_counted = "SELECT counted_at = read_at AS is_counted FROM books"
        assert all(row.is_counted for row in await database.execute((text(are_counted), {})))
        return [tuple(row) for row in await database.execute((kept, {}))]

    chunks = [
        Chunk(f"{BOOK}p{n}#0", f"{BOOK}p{n}", "Robots", 0, f"A robot number{n} walks {'often' if n % 2 else 'far'}.")
        for n in range(5)
    ]
    other = [Chunk(f"{OTHER_BOOK}p#0", f"{OTHER_BOOK}p", "Cooks", 0, "A cook walks.")]
    await ingest(a_source(BOOK, chunks), database.dsn, None, locale="en")
    await ingest(a_source(OTHER_BOOK, other), database.dsn, None, locale="en")
    assert ("walk", book_id(BOOK), 5) in await counts()
    assert ("often", book_id(BOOK), 2) in await counts()

    changed = [*chunks[2:], Chunk(f"{BOOK}new#0", f"{BOOK}new", "Robots", 0, "A rover drives.")]
    await ingest(a_source(BOOK, changed), database.dsn, None, locale="en")
    assert {("walk", book_id(BOOK), 3), ("walk", book_id(OTHER_BOOK), 1), ("rover", book_id(BOOK), 1)} <= {
        *await counts()
    }

    await remove(BOOK, database.dsn)
    assert {book for _, book, _ in await counts()} == {book_id(OTHER_BOOK)}


async def by_words(
    database: Database,
    model_server: FakeOpenAI,
    question: str,
    *,
    page: str | None = None,
    previous: str | None = None,
) -> list[str]:
    async with searching(database, model_server) as search:
        hits = await search.search(Query(question, known(previous), page), limit=20, by_meaning=False)
    return [hit.page.removeprefix(BOOK) for hit in hits]


async def test_words_of_most_chunks_are_looked_up_only_if_nothing_else_is_asked_for(
    database: Database, model_server: FakeOpenAI
) -> None:
    rare = Section("rare", "This robot has a gyroscope.")
    await replace_book(database, *(Section(f"p{n}", f"This robot is number{n}.") for n in range(120)), rare, model=None)

    for page in (None, f"{BOOK}p1"):
        assert await by_words(database, model_server, "robot gyroscope", page=page) == ["rare"]
        assert len(await by_words(database, model_server, "robot", page=page)) == 20
        # A word that the book does not have is nothing else, nor is what was asked before.
        assert len(await by_words(database, model_server, "juggling robot", page=page)) == 20
        after_another = await by_words(database, model_server, "robot", page=page, previous="gyroscope")
        assert (len(after_another), after_another[0]) == (20, "rare")


async def test_frequent_words_count_where_the_rare_ones_are(database: Database, model_server: FakeOpenAI) -> None:
    sections = [
        Section("rare", "The gyroscope."),
        Section("both", "The gyroscope, balanced."),
        Section("often", "Balanced."),
    ]
    await replace_book(database, *sections, model=None)
    assert sorted(await by_words(database, model_server, "balanced gyroscope")) == ["both", "often", "rare"]

    # As if it were a book of 100,000 chunks, in which a word is in so many that they are not all looked at.
    await database.execute((text("UPDATE books SET chunks = 100000"), {}))
    await database.execute((text("UPDATE book_words SET chunks = 20000 WHERE lexeme = 'balanc'"), {}))
    await database.execute((text("UPDATE book_words SET chunks = 10000 WHERE lexeme = 'gyroscop'"), {}))

    assert await by_words(database, model_server, "balanced gyroscope") == ["both", "rare"]


@pytest.mark.parametrize(("chunks", "found"), [(900, 3), (1_100, 2), (9_900, 2), (11_000, 2)])
async def test_in_several_books_at_once_fewer_places_are_looked_at(
    database: Database, model_server: FakeOpenAI, chunks: int, found: int
) -> None:
    sections = [
        Section("rare", "The gyroscope."),
        Section("both", "The gyroscope, balanced."),
        Section("often", "Balanced."),
    ]
    await replace_book(database, *sections, Section("legs", "Its knees bend.", book=OTHER_BOOK), model=None)
    await database.execute((text("UPDATE books SET chunks = 100000"), {}))
    await database.execute((text("UPDATE book_words SET chunks = 20000 WHERE lexeme = 'balanc'"), {}))
    await database.execute(
        (text("UPDATE book_words SET chunks = :chunks WHERE lexeme = 'gyroscop'"), {"chunks": chunks})
    )

    assert len(await by_words(database, model_server, "balanced gyroscope")) == found
    in_one = await by_words(database, model_server, "balanced gyroscope", page=f"{BOOK}rare")
    assert len(in_one) == (3 if chunks < 10_000 else 2)


async def test_a_database_of_one_book_is_searched_as_that_book_without_a_page(
    database: Database, model_server: FakeOpenAI
) -> None:
    sections = [Section("rare", "The gyroscope."), Section("often", "Balanced.")]
    await replace_book(database, *sections, model=None)
    await database.execute((text("UPDATE books SET chunks = 100000"), {}))
    await database.execute((text("UPDATE book_words SET chunks = 5000"), {}))

    assert sorted(await by_words(database, model_server, "balanced gyroscope")) == ["often", "rare"]


async def test_the_words_of_the_question_are_looked_up_before_those_of_the_one_before_it(
    database: Database, model_server: FakeOpenAI
) -> None:
    sections = [Section("legs", "Its knees bend."), Section("arms", "Its elbow turns.")]
    await replace_book(database, *sections, Section("x", "Nothing.", book=OTHER_BOOK), model=None)
    await database.execute((text("UPDATE books SET chunks = 100000"), {}))
    await database.execute((text("UPDATE book_words SET chunks = 5000 WHERE lexeme = 'elbow'"), {}))
    await database.execute((text("UPDATE book_words SET chunks = 1500 WHERE lexeme = 'knee'"), {}))

    assert await by_words(database, model_server, "And the elbow?", previous="Where are the knees?") == ["arms"]


async def test_a_book_that_a_release_without_counts_has_read_in_is_searched_as_well(
    database: Database, model_server: FakeOpenAI
) -> None:
    numbers = random.Random(7)
    vocabulary = [f"term{number}" for number in range(12)]
    sections = [Section(f"p{n}", " ".join(numbers.choices(vocabulary, range(1, 13), k=20)), str(n)) for n in range(60)]
    await replace_book(database, *sections, model=None)
    counted = await by_words(database, model_server, "term0 term3 term7")

    await database.execute((text("UPDATE book_words SET chunks = 60"), {}))
    await database.execute((text("UPDATE books SET read_at = now() + interval '1 second'"), {}))

    assert await by_words(database, model_server, "term0 term3 term7") == counted
    assert len(counted) > 10
