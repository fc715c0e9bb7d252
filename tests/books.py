"""Books in the database, stored without reading files."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Uuid, bindparam, delete, insert, select
from sqlmodel import col

from app import dsn
from app.book.catalogue import begin_book, finish_book
from app.book.chunks import Chunk
from app.book.embeddings import padded
from app.book.pages import pages_of
from app.book.shelf import book_id, comparable
from app.book.words import index_words, prune_words
from app.database import Database
from app.models import Document, PaidEmbedding, StoredBook
from tests import kept
from tests.fake_openai import embedding

BOOK = "https://book.example.org/docs/"
MODEL = "text-embedding-3-small"


@dataclass(frozen=True)
class Section:
    """A chunk of a book."""

    page: str
    text: str
    title: str = "Robots"
    locale: str | None = "en"
    position: int = 0
    vector: list[float] | None = None
    """Its embedding; without one, that of the fake server for its text."""
    book: str = BOOK
    """The address of its book."""


LEGS = Section("legs", "A hexapod walks on six legs.", title="Legs")
WHEELS = Section("wheels", "A rover drives on four wheels.", title="Wheels")


def documents(sections: Iterable[Section], *, model: str | None = MODEL) -> list[Document]:
    """Return what the database holds of the sections, with embeddings of this model or without."""
    rows = []
    for section in sections:
        page = f"{section.book}{section.page}"
        meta: dict[str, Any] = {"book": section.book, "page": page, "locale": section.locale, "digest": "0" * 64}
        vector = section.vector or embedding(section.text)
        if model:
            meta |= {"model": model, "dimensions": len(vector)}
        rows.append(
            Document(
                source=f"{page}#{section.position}",
                title=section.title,
                position=section.position,
                content=section.text,
                embedding=padded(vector) if model else None,
                meta=meta,
                book_id=book_id(section.book),
                page=comparable(page),
            )
        )
    return rows


async def clear(database: Database) -> None:
    """Delete every book, chunks of none, and what was paid for."""
    async with database.engine.begin() as connection:
        for table in (StoredBook, Document, PaidEmbedding):
            await connection.execute(delete(table))
        await prune_words(connection)


async def replace_book(database: Database, *sections: Section, model: str | None = MODEL, keep: bool = False) -> None:
    """Put these sections in the place of what is in the database, or beside it, in one transaction."""
    rows = documents(sections, model=model)
    async with database.engine.execution_options(isolation_level="SERIALIZABLE").begin() as connection:
        if not keep:
            await connection.execute(delete(StoredBook))
        books = {section.book: section.locale for section in sections}
        for book in books:
            await begin_book(connection, book_id(book), book)
        if rows:
            values = [{**row.model_dump(exclude={"meta"}), "metadata": row.meta} for row in rows]
            await connection.execute(insert(Document), values)
            await index_words(connection, rows)
        for book, locale in books.items():
            chunks = await connection.execute(_CHUNKS, {"book": book_id(book)})
            await finish_book(
                connection, book_id(book), title=None, locale=locale, pages=pages_of(book, [*map(_chunk, chunks)], {})
            )
        await prune_words(connection)


_CHUNKS = (
    select(Document).where(col(Document.book_id) == bindparam("book", type_=Uuid())).order_by(col(Document.created_at))
)


def _chunk(row: Row[Any]) -> Chunk:
    return Chunk(row.source, row.metadata["page"], row.title, row.position, row.content)


@asynccontextmanager
async def opened(url: str, *, pool_size: int = 2) -> AsyncIterator[Database]:
    """Connect to a migrated database, which has no book before and after."""
    database = kept.database(dsn.parse(url), pool_size=pool_size)
    try:
        await replace_book(database)
        yield database
        await replace_book(database)
    finally:
        await database.close()
