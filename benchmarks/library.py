"""Libraries of random books for the search to be measured on: as many chunks as are wanted, copied in with their embeddings."""

import json
import random
import struct
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import accumulate

import asyncpg
import numpy as np
from sqlalchemy import text

from app.book.catalogue import begin_book, finish_book
from app.book.embedding_index import index_embeddings
from app.book.shelf import book_id, comparable
from app.database import command_engine
from app.dsn import Dsn
from benchmarks.model import LATENT, SPREAD, TOPICS, axes, middle

MODEL = "text-embedding-3-small"
WORDS = [f"word{number}" for number in range(8_000)]
_WEIGHTS = list(accumulate(1 / (rank + 30) for rank in range(len(WORDS))))
"""How frequent words are in a language, without those that the search leaves out: the first is in every second chunk."""
_BATCH = 500
_INDEXED_KB = 5
"""What an embedding takes in the index, and a little more."""

_COLUMNS = ("id", "source", "title", "position", "content", "embedding", "metadata", "created_at", "book_id", "page")
_INDEX_WORDS = text("""
    INSERT INTO document_words (id, book_id, words, length)
    SELECT id, book_id, words, (SELECT sum(cardinality(positions)) FROM unnest(words))
    FROM (SELECT id, book_id, to_tsvector('english', concat_ws(' ', title, title, content)) AS words FROM documents WHERE book_id = :book)
""")


def address_of(book: int) -> str:
    """Return the address of the book of this number."""
    return f"https://book.example.org/{book}/"


def sentence(numbers: random.Random, words: int) -> str:
    """Return a text of so many words."""
    return " ".join(numbers.choices(WORDS, cum_weights=_WEIGHTS, k=words))


async def store_library(dsn: Dsn, books: Sequence[int]) -> None:
    """Store a book of each of these numbers of chunks in an empty PostgreSQL database, and index them as the command does."""
    engine = command_engine(dsn)
    connection = await asyncpg.connect(dsn.url.set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        for number, chunks in enumerate(books):
            key = book_id(address_of(number))
            async with engine.begin() as begun:
                await begin_book(begun, key, address_of(number))
            await _copy(connection, number, chunks)
            async with engine.begin() as finishing:
                await finishing.execute(_INDEX_WORDS, {"book": key})
                await finish_book(finishing, key, title=None, locale="en", pages=[])
        await connection.execute("VACUUM ANALYZE")
        # As docs/book.md advises for a large library: as much as the index will have.
        memory = max(64, sum(books) * _INDEXED_KB // 1_000)
        await connection.execute(f"ALTER DATABASE {dsn.url.database} SET maintenance_work_mem = '{memory}MB'")
        indexing = await index_embeddings(engine)
        assert indexing.failure is None, indexing.failure
    finally:
        await connection.close()
        await engine.dispose()


async def _copy(connection: asyncpg.Connection, book: int, chunks: int) -> None:
    await connection.set_type_codec(
        "vector", schema="public", encoder=lambda packed: packed, decoder=lambda packed: packed, format="binary"
    )
    for start in range(0, chunks, _BATCH):
        rows = _rows(book, range(start, min(start + _BATCH, chunks)))
        await connection.copy_records_to_table("documents", records=list(rows), columns=_COLUMNS)


def _rows(book: int, positions: range) -> Iterator[tuple[object, ...]]:
    numbers = random.Random(f"{book} {positions.start}")
    address = address_of(book)
    for position, vector in zip(positions, _vectors(f"{book} {positions.start}", len(positions)), strict=True):
        page = f"{address}page-{position // 8}"
        meta = {"book": address, "page": page, "locale": "en", "digest": "0" * 64}
        yield (
            uuid.UUID(int=numbers.getrandbits(128), version=4),
            f"{page}#section-{position % 8}",
            sentence(numbers, 6),
            position % 8,
            sentence(numbers, 160),
            vector,
            json.dumps({**meta, "model": MODEL, "dimensions": 1_536}),
            datetime.now(UTC),
            book_id(address),
            comparable(page),
        )


def _vectors(seed: str, count: int) -> Iterator[bytes]:
    """Yield vectors of the kind that the model server gives, as pgvector's bytes."""
    generator = np.random.default_rng(list(seed.encode()))
    middles = np.array([middle(topic) for topic in range(TOPICS)])
    places = middles[generator.integers(TOPICS, size=count)] + SPREAD * generator.standard_normal((count, LATENT))
    vectors = places @ np.array(axes()).T
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for vector in vectors.astype(">f4"):
        yield struct.pack(">HH", len(vector), 0) + vector.tobytes()
