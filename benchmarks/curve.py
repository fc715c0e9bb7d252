"""How a search grows with the library, beside plain pgvector: `uv run --group benchmarks python -m benchmarks.curve`.

It measures 500, 5,000 and 50,000 chunks, and with `--large` 500,000 too, which takes 9 GB of the temporary folder and forty minutes;
a million, twice of both, are measured if they are named (`1000000`). Before that it compares turns in a library of 24 books with turns
in one of a single book. Every other figure is one of the same moment:
the ways of searching take turns with each question, so that other work on the machine slows all of them.
"""

import asyncio
import logging
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import asyncpg

from app.book.embeddings import padded
from app.book.evaluation import known
from app.book.search import PASSAGES, BookSearch, Hit
from app.book.shelf import book_id
from app.database import Database
from app.retrieval import Query
from benchmarks.library import address_of, sentence, store_library
from benchmarks.load import closed_loop
from benchmarks.model import embedding
from benchmarks.plot import percentile_95
from benchmarks.search import settings as configuration
from benchmarks.servers import model_server, serving
from tests.conftest import migrate
from tests.postgres import PostgresServer, postgres_server

LIBRARIES = {
    500: [500],
    5_000: [5_000],
    50_000: [30_000, *[1_000] * 20],
    500_000: [30_000, *[1_000] * 470],
    1_000_000: [30_000, *[1_000] * 970],
}
"""The chunks of each book of the libraries that are measured, by how many they are together."""
QUESTIONS = 40
WARM = 10
"""How many of the questions only warm the caches."""
ROUNDS = 15
TURNS = 20

_SIZES = """
    SELECT pg_database_size(current_database()) AS all, coalesce(pg_relation_size(to_regclass('ix_documents_embedding')), 0) AS index,
           pg_total_relation_size('document_words') + pg_total_relation_size('book_words') AS words
"""


@dataclass
class Times:
    """The seconds that each way of searching took, and how much of what is nearest was found."""

    words: list[float] = field(default_factory=list)
    meaning: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    recall: list[float] = field(default_factory=list)


async def _times(search: BookSearch, connection: asyncpg.Connection, book: int | None) -> Times:
    """Search one book or all of them, by words, by words and meaning, and by plain pgvector, in turn."""
    numbers = random.Random(book)
    pairs = [(sentence(numbers, 8), sentence(numbers, 8)) for _ in range(QUESTIONS)]
    await search.questions.embed_all([text for pair in pairs for text in pair])
    where, key = ("WHERE book_id = $2", [book_id(address_of(book))]) if book is not None else ("", [])
    plain = f"SELECT source FROM documents {where} ORDER BY embedding <=> (SELECT $1::real[]::vector) LIMIT 20"
    page = None if book is None else f"{address_of(book)}page-1"
    times = Times()
    for question, before in pairs:
        started = time.perf_counter()
        await search.search(Query(question, known(before), page), limit=PASSAGES, by_meaning=False)
        after_words = time.perf_counter()
        hits = await search.search(Query(question, known(before), page), limit=PASSAGES)
        after_meaning = time.perf_counter()
        await connection.fetch(plain, list(embedding(question)), *key)
        after_plain = time.perf_counter()
        assert len(hits) == PASSAGES
        times.words.append(after_words - started)
        times.meaning.append(after_meaning - after_words)
        times.plain.append(after_plain - after_meaning)
        alone: list[Hit] = await search.search(Query(question, known(None), page), limit=40)
        rows = await connection.fetch(plain, padded(list(embedding(question))), *key)
        found = {hit.source for hit in alone if hit.meaning_rank}
        times.recall.append(len(found & {row["source"] for row in rows}) / len(rows))
    return times


def _in_ms(seconds: Sequence[float]) -> str:
    seconds = seconds[WARM:]
    return f"{statistics.median(seconds) * 1000:.1f} / {percentile_95(seconds) * 1000:.1f} ms"


async def _measure(postgres: PostgresServer, model_url: str, chunks: int, connection: asyncpg.Connection) -> None:
    books = LIBRARIES[chunks]
    name = f"library_{chunks}"
    url = postgres.url(name)
    await connection.execute(f"CREATE DATABASE {name}")
    await asyncio.to_thread(migrate, url)
    settings = configuration(url, model_url)
    await store_library(settings.database, books)
    database = Database(settings.database, pool_size=2)
    own = await asyncpg.connect(url)
    places: dict[str, int | None] = {f"a book of {books[0]:,}": 0}
    if len(books) > 1:
        places |= {f"a book of {books[-1]:,}": len(books) - 1, f"all {len(books)} books": None}
    async with BookSearch(settings, database) as search:
        for place, book in places.items():
            times = await _times(search, own, book)
            ratio = statistics.median(times.meaning[WARM:]) / statistics.median(times.plain[WARM:])
            cells = [f"{chunks:,}", place, _in_ms(times.words), _in_ms(times.meaning), _in_ms(times.plain)]
            print(f"| {' | '.join(cells)} | {ratio:.2f} | {statistics.mean(times.recall):.1%} |", flush=True)
    sizes = await own.fetchrow(_SIZES)
    assert sizes is not None
    of_all, of_index, of_words = (f"{sizes[part] / 2**20:,.0f} MiB" for part in ("all", "index", "words"))
    print(f"<!-- {chunks:,} chunks: {of_all}, of which {of_words} for words and {of_index} for HNSW -->", flush=True)
    await own.close()
    await database.close()
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def _turns(postgres: PostgresServer, model_url: str, connection: asyncpg.Connection) -> None:
    """Compare turns in a library of 24 books of 500 chunks with turns in one of a single such book."""
    urls = []
    for name, books in (("single", 1), ("many", 24)):
        await connection.execute(f"CREATE DATABASE {name}")
        urls.append(postgres.url(name))
        await asyncio.to_thread(migrate, urls[-1])
        await store_library(configuration(urls[-1], model_url).database, [500] * books)
    numbers = random.Random(1)
    async with (
        serving("app", model_url, DATABASE_URL=urls[0]) as single,
        serving("app", model_url, DATABASE_URL=urls[1]) as many,
    ):
        for what, page in (("from a page of a book", f"{address_of(0)}page-1"), ("from no book", None)):
            ratios, seconds = [], []
            for _ in range(ROUNDS):
                bodies = [{"message": f"0 {sentence(numbers, 8)}", "page_url": page} for _ in range(TURNS)]
                of_many, of_single = [
                    statistics.median(await closed_loop(server.port, bodies, clients=1)) for server in (many, single)
                ]
                ratios.append(of_many / of_single)
                seconds.append((of_many, of_single))
            of_many, of_single = (statistics.median(values) * 1000 for values in zip(*seconds[1:], strict=True))
            value = f"{statistics.median(ratios[1:]):.2f} ({of_many:.1f} ms ÷ {of_single:.1f} ms)"
            print(f"| A turn {what}, 12,000 chunks in 24 books ÷ 500 chunks in one | {value} | ≤ 1.6 |", flush=True)
        memory = f"{many.resident_mib():.0f} MiB ({single.resident_mib():.0f} MiB)"
        print(f"| Resident memory with 24 books (with one) | {memory} | report |", flush=True)


async def main(arguments: list[str]) -> None:
    """Measure what is named, or 500, 5,000 and 50,000 chunks and then the turns."""
    named = [int(argument) for argument in arguments if argument.isdigit()]
    sizes = named or [500, 5_000, 50_000, *([500_000] if "--large" in arguments else [])]
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    with postgres_server() as postgres:
        async with model_server() as model_url:
            connection = await asyncpg.connect(postgres.url())
            if not named or "turns" in arguments:
                print("| figure | measured | target |\n|---|---|---|")
                await _turns(postgres, model_url, connection)
            print("| chunks | searched | words | words and meaning | plain pgvector | ratio | recall |")
            print("|---|---|---|---|---|---|---|")
            for chunks in sizes:
                await _measure(postgres, model_url, chunks, connection)
            await connection.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
