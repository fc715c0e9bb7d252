"""Finding the passages that a question needs: by words and by meaning, on PostgreSQL and on SQLite."""

import asyncio
import heapq
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from app.book.embeddings import Embedder, Vector, padded
from app.book.questions import QuestionEmbedder
from app.book.shelf import Shelf, comparable, known_books
from app.book.statements import PAGES, PREVIOUS_WEIGHT, search_postgresql, search_sqlite
from app.book.vector_index import VectorIndex
from app.book.words import searchable, without_common
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
        self._shelf = Shelf()
        self._not_comparable: Shelf | None = None
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

        def begin_to_embed(shelf: Shelf) -> None:
            nonlocal embedding
            if by_meaning and embedding is None and self._dimensions(shelf):
                embedding = asyncio.create_task(self.questions.embed(query.question, deadline))

        try:
            begin_to_embed(self._shelf.of(query.page_url))
            shelf = (await self._current_shelf()).of(query.page_url)
            if not shelf.chunks:
                return []
            begin_to_embed(shelf)
            previous = await query.previous_question
            keep_out_of_log(previous)
            vector = await self._vector(shelf, embedding, previous, deadline) if embedding else None
        finally:
            if embedding:
                embedding.cancel()
        return await self._find(shelf, query, previous, vector, limit)

    async def has_meaning(self) -> bool:
        """Whether questions are searched by meaning too."""
        return self._dimensions(await self._current_shelf()) is not None

    async def pages(self) -> set[str]:
        """Return the addresses of the book's pages; raises DatabaseError."""
        return {row.address for row in await self._database.execute((PAGES, {}))}

    async def _vector(
        self, shelf: Shelf, embedding: asyncio.Task[Vector | None], previous: str | None, deadline: float
    ) -> Vector | None:
        """Return what to look for by meaning, None if it is not known in time."""
        before = asyncio.create_task(self.questions.embed(previous, deadline, may_be_late=True))
        try:
            vector = await embedding
            vector_before = await before
        finally:
            before.cancel()
        dimensions = self._dimensions(shelf)
        if vector is None:
            return None
        if len(vector) != dimensions:
            self._tell_of_other_dimensions(shelf, len(vector))
            return None
        if vector_before is None or len(vector_before) != dimensions:
            return vector
        # But for a factor, the cosine with this sum is the sum of the cosines.
        return [a + PREVIOUS_WEIGHT * b for a, b in zip(vector, vector_before, strict=True)]

    def _dimensions(self, shelf: Shelf) -> int | None:
        """Return the dimensions of the embeddings that questions can be compared with, None if they can be with none."""
        has_vectors = self._database.dsn.sqlite or shelf.vector_schema
        return shelf.dimensions(self._embedder.model) if has_vectors and self._embedder.is_available else None

    async def _current_shelf(self) -> Shelf:
        """Return what is known of the book, after reading it again if it was last read long ago."""
        if self._reading is None and time.monotonic() - self._read_at > _READING_SECONDS:
            self._reading = asyncio.create_task(self._read())
        if self._reading:
            await asyncio.shield(self._reading)
        return self._shelf

    async def _read(self) -> None:
        """Read what is known of the book; if that fails, it stays as it was, and the log says why."""
        try:
            statement = known_books(is_sqlite=self._database.dsn.sqlite)
            shelf = Shelf(await self._database.execute((statement, {})))
            if shelf.rows != self._shelf.rows:
                await self._prepare(shelf)
                self._shelf = shelf
        except MissingTableError:
            pass  # Readiness says so.
        except DatabaseError as error:
            logger.warning("book.unread", exc_info=error)
        finally:
            self._read_at = time.monotonic()
            self._reading = None

    async def _prepare(self, shelf: Shelf) -> None:
        """Do what has to be done once for each book."""
        model = self._embedder.model
        dimensions = self._dimensions(shelf)
        if dimensions and self._database.dsn.sqlite:
            await self._vectors.load(model, dimensions)
        if shelf.embeddings and self._embedder.is_available and not dimensions:
            reason = "the book has embeddings of other models only, so it is searched by words"
            fields = {"reason": reason, "models": sorted({name for name, _ in shelf.embeddings}), "model": model}
            logger.warning("book.not_comparable", extra={"fields": fields})

    def _tell_of_other_dimensions(self, shelf: Shelf, found: int) -> None:
        """Log, once for each book, that the model has changed under its name."""
        if self._not_comparable is shelf:
            return
        self._not_comparable = shelf
        model = self._embedder.model
        reason = "the model's embeddings have other dimensions than the book's, so it is searched by words"
        fields = {"reason": reason, "model": model, "dimensions": found, "dimensions_of_book": shelf.dimensions(model)}
        logger.warning("book.not_comparable", extra={"fields": fields})

    async def _find(
        self, shelf: Shelf, query: Query, previous: str | None, vector: Vector | None, limit: int
    ) -> list[Hit]:
        parameters: dict[str, Any] = {"page": comparable(query.page_url or ""), "limit": limit}
        book = shelf.book.id if shelf.book else None
        if book:
            parameters["book"] = book
        question, before = words_of(query.question), words_of(previous or "")
        if self._database.dsn.sqlite:
            if "english" in shelf.configurations:
                question, before = without_common(question), without_common(before)
            nearest = await self._vectors.nearest(vector, book) if vector else []
            parameters |= {"question": _any_of(question), "previous": _any_of(before), "nearest": json.dumps(nearest)}
            statement = search_sqlite(in_one_book=book is not None)
        else:
            parameters |= {
                "question": " ".join(question),
                "previous": " ".join(before),
                "configurations": shelf.configurations,
                "chunks": shelf.chunks,
                "average_length": shelf.average_length,
            }
            is_mixed = len(shelf.embeddings) > 1
            if vector:
                parameters["embedding"] = padded(vector)
                if is_mixed:
                    parameters |= {"model": self._embedder.model, "dimensions": str(len(vector))}
            statement = search_postgresql(
                shelf.vector_schema if vector else None, is_mixed=is_mixed, in_one_book=book is not None
            )
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
