"""Finding the passages that a question needs: by words and by meaning, on PostgreSQL and on SQLite."""

import asyncio
import heapq
import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import unquote

from sqlalchemy import Row

from app.book.embeddings import Embedder, Vector, padded
from app.book.questions import QuestionEmbedder
from app.book.statements import (
    PAGES_POSTGRESQL,
    PAGES_SQLITE,
    PREVIOUS_WEIGHT,
    SEARCH_SQLITE,
    STATE_POSTGRESQL,
    STATE_SQLITE,
    search_postgresql,
)
from app.book.vector_index import VectorIndex
from app.book.words import configuration, searchable, without_common
from app.config import Settings
from app.database import Database
from app.errors import DatabaseError, MissingTableError
from app.logs import keep_out_of_log
from app.retrieval import Passage, Query

logger = logging.getLogger(__name__)

PASSAGES = 6
"""How many passages a question gets at most."""
_PASSAGES_BYTES = 8_000
"""How long they are together: about 2,000 tokens, since a token has about four bytes, in English as in Urdu and Chinese."""
_SHORTEST_BYTES = 800
"""How much of each passage there is room for, however long those before it are."""

EMBEDDING_SECONDS = 1.5
"""How long the search waits for the embedding of the question; after that, words alone decide."""
_READING_SECONDS = 10.0
"""How old what is known of the book may be when a question comes."""

_LAST_READING_SECONDS = 1.0
"""How long the end waits for what is being read of the book."""

_MOST_WORDS = 64
"""Of a longer question, such as a pasted log, the longest words are looked up."""


@dataclass(frozen=True)
class Hit:
    """A chunk that was found, and why."""

    text: str
    source: str
    title: str
    page: str
    score: float
    """Its score after fusion: the higher, the better."""
    words_rank: int | None
    """Its place among the chunks that were found by words, from 1; None if it is not one of them."""
    meaning_rank: int | None
    """Its place among the chunks that were found by meaning."""


class Book:
    """What is known of the book in the database, or of the books; as long as the rows are the same, so are the books."""

    def __init__(self, rows: Sequence[Row[Any]] = ()) -> None:
        self.rows = rows
        self.chunks: int = sum(row.chunks for row in rows)
        self.average_length: float = max(1.0, sum(row.words or 0 for row in rows) / max(1, self.chunks))
        """How many words a chunk has."""
        self.configurations = sorted({configuration(row.locale) for row in rows})
        """PostgreSQL's text search configurations for its languages."""
        self.vector_schema: str | None = rows[0].vector_schema if rows else None
        """Where pgvector is, if it can compare the embeddings."""
        self.embeddings = Counter[tuple[str, int]]()
        """How many embeddings there are of each model and number of dimensions."""
        for row in rows:
            if row.model is not None:
                self.embeddings[row.model, row.dimensions] += row.chunks

    def dimensions(self, model: str) -> int | None:
        """Return how many dimensions the embeddings of the model have, None if there are none."""
        return next((size for (name, size), _ in self.embeddings.most_common() if name == model), None)


class BookSearch:
    """The retriever that searches the book in the database.

    It works inside its `async with` block. What is known of the book is read at the beginning, and then beside a question, at
    most every ten seconds. Otherwise a question costs one round trip to the database, and none as long as there is no book.
    """

    def __init__(self, settings: Settings, database: Database, *, embedding_seconds: float = EMBEDDING_SECONDS) -> None:
        self._database = database
        self._embedding_seconds = embedding_seconds
        self._embedder = Embedder(settings)
        self.questions = QuestionEmbedder(self._embedder)
        self._vectors = VectorIndex(database)
        self._book = Book()
        self._not_comparable: Book | None = None
        self._read_at = time.monotonic()
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        if reading := self._reading:
            # SQLite's thread would go on, and find the event loop closed.
            await asyncio.wait([reading], timeout=_LAST_READING_SECONDS)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        await self._embedder.close()

    async def __call__(self, query: Query) -> Sequence[Passage]:
        """Return the passages for the query, best first; raises DatabaseError."""
        return as_passages(await self.search(query, limit=PASSAGES))

    async def search(self, query: Query, *, limit: int, by_meaning: bool = True) -> list[Hit]:
        """Return the chunks that fit the query best, at most three of each page; raises DatabaseError."""
        deadline = time.monotonic() + self._embedding_seconds
        embedding: asyncio.Task[Vector | None] | None = None

        def begin_to_embed(book: Book) -> None:
            nonlocal embedding
            if by_meaning and embedding is None and self._dimensions(book):
                embedding = asyncio.create_task(self.questions.embed(query.question, deadline))

        try:
            begin_to_embed(self._book)
            book = await self._current_book()
            if not book.chunks:
                return []
            begin_to_embed(book)
            previous = await query.previous_question
            keep_out_of_log(previous)
            vector = await self._vector(book, embedding, previous, deadline) if embedding else None
        finally:
            if embedding:
                embedding.cancel()
        return await self._find(book, query, previous, vector, limit)

    async def has_meaning(self) -> bool:
        """Whether questions are searched by meaning too."""
        return self._dimensions(await self._current_book()) is not None

    async def pages(self) -> set[str]:
        """Return the addresses of the book's pages; raises DatabaseError."""
        statement = PAGES_SQLITE if self._database.dsn.sqlite else PAGES_POSTGRESQL
        return {address(row.page) for row in await self._database.execute((statement, {}))}

    async def _vector(
        self, book: Book, embedding: asyncio.Task[Vector | None], previous: str | None, deadline: float
    ) -> Vector | None:
        """Return what to look for by meaning, None if it is not known in time."""
        before = asyncio.create_task(self.questions.embed(previous, deadline, may_be_late=True))
        try:
            vector = await embedding
            vector_before = await before
        finally:
            before.cancel()
        dimensions = self._dimensions(book)
        if vector is None:
            return None
        if len(vector) != dimensions:
            self._tell_of_other_dimensions(book, len(vector))
            return None
        if vector_before is None or len(vector_before) != dimensions:
            return vector
        # But for a factor, the cosine with this sum is the sum of the cosines.
        return [a + PREVIOUS_WEIGHT * b for a, b in zip(vector, vector_before, strict=True)]

    def _dimensions(self, book: Book) -> int | None:
        """Return the dimensions of the embeddings that questions can be compared with, None if they can be with none."""
        has_vectors = self._database.dsn.sqlite or book.vector_schema
        return book.dimensions(self._embedder.model) if has_vectors and self._embedder.is_available else None

    async def _current_book(self) -> Book:
        """Return what is known of the book, after reading it again if it was last read long ago."""
        if self._reading is None and time.monotonic() - self._read_at > _READING_SECONDS:
            self._reading = asyncio.create_task(self._read())
        if self._reading:
            await asyncio.shield(self._reading)
        return self._book

    async def _read(self) -> None:
        """Read what is known of the book; if that fails, it stays as it was, and the log says why."""
        try:
            statement = STATE_SQLITE if self._database.dsn.sqlite else STATE_POSTGRESQL
            book = Book(await self._database.execute((statement, {})))
            if book.rows != self._book.rows:
                await self._prepare(book)
                self._book = book
        except MissingTableError:
            pass  # Readiness says so.
        except DatabaseError as error:
            logger.warning("book.unread", exc_info=error)
        finally:
            self._read_at = time.monotonic()
            self._reading = None

    async def _prepare(self, book: Book) -> None:
        """Do what has to be done once for each book."""
        model = self._embedder.model
        dimensions = self._dimensions(book)
        if dimensions and self._database.dsn.sqlite:
            await self._vectors.load(model, dimensions)
        if book.embeddings and self._embedder.is_available and not dimensions:
            reason = "the book has embeddings of other models only, so it is searched by words"
            fields = {"reason": reason, "models": sorted({name for name, _ in book.embeddings}), "model": model}
            logger.warning("book.not_comparable", extra={"fields": fields})

    def _tell_of_other_dimensions(self, book: Book, found: int) -> None:
        """Log, once for each book, that the model has changed under its name."""
        if self._not_comparable is book:
            return
        self._not_comparable = book
        model = self._embedder.model
        reason = "the model's embeddings have other dimensions than the book's, so it is searched by words"
        fields = {"reason": reason, "model": model, "dimensions": found, "dimensions_of_book": book.dimensions(model)}
        logger.warning("book.not_comparable", extra={"fields": fields})

    async def _find(
        self, book: Book, query: Query, previous: str | None, vector: Vector | None, limit: int
    ) -> list[Hit]:
        page = address(query.page_url or "")
        parameters: dict[str, Any] = {"page": page, "page_decoded": unquote(page), "limit": limit}
        question, before = words_of(query.question), words_of(previous or "")
        if self._database.dsn.sqlite:
            if "english" in book.configurations:
                question, before = without_common(question), without_common(before)
            nearest = await self._vectors.nearest(vector) if vector else []
            parameters |= {"question": _any_of(question), "previous": _any_of(before), "nearest": json.dumps(nearest)}
            statement = SEARCH_SQLITE
        else:
            parameters |= {
                "question": " ".join(question),
                "previous": " ".join(before),
                "configurations": book.configurations,
                "chunks": book.chunks,
                "average_length": book.average_length,
            }
            is_mixed = len(book.embeddings) > 1
            if vector:
                parameters["embedding"] = padded(vector)
                if is_mixed:
                    parameters |= {"model": self._embedder.model, "dimensions": str(len(vector))}
            statement = search_postgresql(book.vector_schema if vector else None, is_mixed=is_mixed)
        return [Hit(*tuple(row)) for row in await self._database.execute((statement, parameters))]


def as_passages(hits: Sequence[Hit]) -> list[Passage]:
    """Return the hits as passages of together at most 8,000 bytes: the first ones whole, and of the last ones the beginning."""
    room = _PASSAGES_BYTES
    passages = []
    for number, hit in enumerate(hits, 1):
        text = shortened(hit.text, room - _SHORTEST_BYTES * (len(hits) - number))
        room -= len(text.encode())
        passages.append(Passage(text=text, source=hit.source, title=hit.title))
    return passages


def shortened(text: str, size: int) -> str:
    """Return the text if it has no more bytes than this, or else its beginning, up to the end of a paragraph, line or word."""
    data = text.encode()
    if len(data) <= size:
        return text
    beginning = data[: size - len(_ELLIPSIS.encode())].decode(errors="ignore")
    ends = (beginning.rfind(separator) for separator in ("\n\n", "\n", " "))
    end = next((end for end in ends if end > len(beginning) / 2), len(beginning))
    return beginning[:end].rstrip() + _ELLIPSIS


_ELLIPSIS = " …"


def address(url: str) -> str:
    """Return a page's address as addresses are compared: without fragment, query, and a slash at its end."""
    return url.partition("#")[0].partition("?")[0].rstrip("/")


def words_of(question: str) -> list[str]:
    """Return the different words of a question, in their order."""
    words = list(dict.fromkeys(searchable(question).lower().split()))
    if len(words) > _MOST_WORDS:
        longest = set(heapq.nlargest(_MOST_WORDS, words, key=len))
        words = [word for word in words if word in longest]
    return words


def _any_of(words: Sequence[str]) -> str:
    """Return the FTS5 query for chunks that have any of the words; no chunk has the empty phrase."""
    return " OR ".join(f'"{word}"' for word in words) or '""'
