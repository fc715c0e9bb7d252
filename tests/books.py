"""Books in the database, stored without reading files."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, insert

from app import dsn
from app.book.embeddings import padded
from app.book.words import index_words, prune_words
from app.database import Database
from app.models import Document
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


LEGS = Section("legs", "A hexapod walks on six legs.", title="Legs")
WHEELS = Section("wheels", "A rover drives on four wheels.", title="Wheels")


def documents(sections: Iterable[Section], *, model: str | None = MODEL) -> list[Document]:
    """Return what the database holds of the sections, with embeddings of this model or without."""
    rows = []
    for section in sections:
        meta: dict[str, Any] = {"page": f"{BOOK}{section.page}", "locale": section.locale, "digest": "0" * 64}
        vector = section.vector or embedding(section.text)
        if model:
            meta |= {"model": model, "dimensions": len(vector)}
        rows.append(
            Document(
                source=f"{BOOK}{section.page}#{section.position}",
                title=section.title,
                position=section.position,
                content=section.text,
                embedding=padded(vector) if model else None,
                meta=meta,
            )
        )
    return rows


async def replace_book(database: Database, *sections: Section, model: str | None = MODEL, keep: bool = False) -> None:
    """Put these sections in the place of what is in the database, or beside it, in one transaction."""
    rows = documents(sections, model=model)
    async with database.engine.execution_options(isolation_level="SERIALIZABLE").begin() as connection:
        if not keep:
            await connection.execute(delete(Document))
        if rows:
            values = [{**row.model_dump(exclude={"meta"}), "metadata": row.meta} for row in rows]
            await connection.execute(insert(Document), values)
            await index_words(connection, rows)
        await prune_words(connection)


@asynccontextmanager
async def opened(url: str, *, pool_size: int = 2) -> AsyncIterator[Database]:
    """Connect to a migrated database, which has no book before and after."""
    database = Database(dsn.parse(url), pool_size=pool_size)
    try:
        await replace_book(database)
        yield database
        await replace_book(database)
    finally:
        await database.close()
