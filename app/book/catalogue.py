"""The rows of the books and of their pages, which change in the transaction that changes the chunks."""

import uuid
from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import Uuid, bindparam, delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from app.book.pages import Page
from app.models import Document, StoredBook, StoredPage, utc_now

# ts_stat takes its query as text. What has not changed is left alone.
_COUNT_WORDS = text("""
    WITH counted AS MATERIALIZED (
        SELECT word, ndoc FROM ts_stat(format('SELECT words FROM document_words WHERE book_id = %L', CAST(:book AS uuid)))
    ),
    forgotten AS (
        DELETE FROM book_words WHERE book_id = :book AND lexeme NOT IN (SELECT word FROM counted)
    )
    INSERT INTO book_words (lexeme, book_id, chunks) SELECT word, :book, ndoc FROM counted
    ON CONFLICT (lexeme, book_id) DO UPDATE SET chunks = excluded.chunks WHERE book_words.chunks <> excluded.chunks
""").bindparams(bindparam("book", type_=Uuid()))
_WORDS = text("SELECT coalesce(sum(length), 0) FROM document_words WHERE book_id = :book")


async def begin_book(connection: AsyncConnection, key: uuid.UUID, address: str) -> None:
    """Make the book's row if there is none yet, for its chunks to refer to; `finish_book` says the rest."""
    if await connection.scalar(select(col(StoredBook.id)).where(col(StoredBook.id) == key)) is None:
        nothing = {"pages": 0, "chunks": 0, "words": 0, "embeddings": [], "read_at": utc_now()}
        await connection.execute(insert(StoredBook).values(id=key, address=address, **nothing))


async def finish_book(
    connection: AsyncConnection, key: uuid.UUID, *, title: str | None, locale: str | None, pages: Sequence[Page]
) -> None:
    """Replace the book's pages, and count what is stored of it; without a title it keeps the one that it has."""
    await connection.execute(delete(StoredPage).where(col(StoredPage.book_id) == key))
    rows = [{"book_id": key, "number": number, **asdict(page)} for number, page in enumerate(pages)]
    if rows:
        await connection.execute(insert(StoredPage), rows)
    of_book = col(Document.book_id) == key
    model = col(Document.meta)["model"].as_string()
    dimensions = col(Document.meta)["dimensions"].as_integer()
    embedded = (
        select(model, dimensions, func.count())
        .where(of_book, col(Document.embedding).is_not(None))
        .group_by(model, dimensions)
        .order_by(model, dimensions)
    )
    is_sqlite = connection.dialect.name == "sqlite"
    if not is_sqlite:
        await connection.execute(_COUNT_WORDS, {"book": key})
    now = utc_now()
    counts = {
        "pages": len(rows),
        "chunks": await connection.scalar(select(func.count()).where(of_book)),
        "words": 0 if is_sqlite else await connection.scalar(_WORDS, {"book": key}),
        "embeddings": [
            {"model": name, "dimensions": size, "chunks": count}
            for name, size, count in await connection.execute(embedded)
        ],
    }
    values = {**counts, "locale": locale, "read_at": now, "counted_at": None if is_sqlite else now}
    if title:
        values["title"] = title
    await connection.execute(update(StoredBook).where(col(StoredBook.id) == key).values(values))
