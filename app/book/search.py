"""Finding the passages that a question needs: by words and by meaning, on PostgreSQL and on SQLite."""

import asyncio
import heapq
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from sqlalchemy import Row

from app.book.contents import contents_passages
from app.book.embedding_index import EXACT_CHUNKS
from app.book.embeddings import Embedder, Vector, padded
from app.book.lengths import in_fair_shares, shortened
from app.book.questions import QuestionEmbedder
from app.book.shelf import SEPARATOR, Shelf, comparable, known_books
from app.book.statements import (
    PAGE_POSTGRESQL,
    PAGE_SQLITE,
    PAGES,
    PREVIOUS_WEIGHT,
    Meaning,
    Where,
    search_postgresql,
    search_sqlite,
)
from app.book.vector_index import VectorIndex
from app.book.words import searchable, without_common, without_common_urdu
from app.config import Settings
from app.database import Database
from app.errors import DatabaseError, MissingTableError
from app.intent import is_about_page, is_about_structure, is_greeting, subject_of
from app.logs import keep_out_of_log
from app.retrieval import Findings, Passage, Query

logger = logging.getLogger(__name__)

PASSAGES = 6
"""How many passages a question gets at most."""
_PASSAGES_BYTES = 8_000
"""How long they are together: about 2,000 tokens, since a token has about four bytes, in English as in Urdu and Chinese."""
_SHORTEST_BYTES = 800
"""How much of each passage there is room for, however long those before it are."""

_PAGE_BYTES = 24_000
"""How long the passages of a question about the page are together: about 6,000 tokens."""
_MOST_SECTIONS = 200
_HITS_BESIDE_CONTENTS = 3
"""How many chunks a question about the book's structure gets at most, beside the table of contents."""

_LEAST_COSINE = 0.16
"""How near the best chunk is to every question that the book has something on."""
_SHORTEST_BEGINNING = 4
_FEW_CHUNKS = 10
"""A book of fewer chunks is too small for words to tell which questions it has something on."""

EMBEDDING_SECONDS = 1.5
"""How long the search waits for the embedding of the question; after that, words alone decide."""
_ITERATIVE_VERSION = (0, 8)
"""The first version of pgvector whose index goes on until it has found enough."""
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

    def __init__(
        self,
        settings: Settings,
        database: Database,
        *,
        embedding_seconds: float = EMBEDDING_SECONDS,
        exact_chunks: int = EXACT_CHUNKS,
    ) -> None:
        self.database = database
        self._exact_chunks = exact_chunks
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

    async def __call__(self, query: Query, *, by_meaning: bool = True) -> Findings:
        """Return what the model is to be sent for the query; raises DatabaseError.

        A question about the page gets the page, and one about the book's structure the table of contents too.
        """
        is_about_page = await _asks_about_page(query)
        if is_about_page and (page := await self._page(query)):
            return page
        looked = await self._look(query, limit=PASSAGES, by_meaning=by_meaning)
        return replace(looked.findings(query), page="unknown" if is_about_page else None)

    async def search(self, query: Query, *, limit: int, by_meaning: bool = True) -> list[Hit]:
        """Return the chunks that fit the query best, at most three of each page; raises DatabaseError."""
        return (await self._look(query, limit=limit, by_meaning=by_meaning)).hits

    async def _page(self, query: Query) -> Findings | None:
        """Return the page that the reader is on; None if the database does not have it."""
        book = (await self.current_shelf()).of(query.page_url).book
        if book is None:
            return None
        statement = PAGE_SQLITE if self.database.dsn.sqlite else PAGE_POSTGRESQL
        page = {"book": book.id, "page": comparable(query.page_url or "")}
        rows = await self.database.execute((statement, {**page, "room": _PAGE_BYTES, "limit": _MOST_SECTIONS}))
        chunks = sorted((row for row in rows if row.kind == "chunk"), key=lambda row: row.place)
        if not chunks:
            return None
        texts = in_fair_shares([row.text for row in chunks], _PAGE_BYTES)
        is_whole = chunks[0].bytes <= _PAGE_BYTES
        return Findings(
            [Passage(text, row.source, row.title) for text, row in zip(texts, chunks, strict=True)],
            book_title=book.title,
            page_title=_title_of(rows),
            page="whole" if is_whole else "beginnings",
        )

    async def _look(self, query: Query, *, limit: int, by_meaning: bool) -> "_Looked":
        deadline = time.monotonic() + self._embedding_seconds
        embedding: asyncio.Task[Vector | None] | None = None

        def begin_to_embed(shelf: Shelf) -> None:
            nonlocal embedding
            if by_meaning and embedding is None and self._dimensions(shelf):
                embedding = asyncio.create_task(self.questions.embed(query.question, deadline))

        try:
            if not is_greeting(query.question):
                begin_to_embed(self._shelf.of(query.page_url))
            shelf = (await self.current_shelf()).of(query.page_url)
            if not shelf.chunks or is_greeting(query.question):
                return _Looked(shelf)
            begin_to_embed(shelf)
            previous = await query.previous_question
            keep_out_of_log(previous)
            vector = await self._vector(shelf, embedding, previous, deadline) if embedding else None
        finally:
            if embedding:
                embedding.cancel()
        return await self._find(shelf, query, previous, vector, limit)

    @property
    def known_shelf(self) -> Shelf:
        """What is known of the books, without asking the database."""
        return self._shelf

    async def has_meaning(self) -> bool:
        """Whether questions are searched by meaning too."""
        return self._dimensions(await self.current_shelf()) is not None

    async def pages(self) -> set[str]:
        """Return the addresses of the book's pages; raises DatabaseError."""
        return {row.address for row in await self.database.execute((PAGES, {}))}

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
        has_vectors = self.database.dsn.sqlite or shelf.vector_schema
        return shelf.dimensions(self._embedder.model) if has_vectors and self._embedder.is_available else None

    async def current_shelf(self) -> Shelf:
        """Return what is known of the book, after reading it again if it was last read long ago."""
        if self._reading is None and time.monotonic() - self._read_at > _READING_SECONDS:
            self._reading = asyncio.create_task(self._read())
        if self._reading:
            await asyncio.shield(self._reading)
        return self._shelf

    async def _read(self) -> None:
        """Read what is known of the book; if that fails, it stays as it was, and the log says why."""
        try:
            statement = known_books(is_sqlite=self.database.dsn.sqlite)
            shelf = Shelf(await self.database.execute((statement, {})))
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
        if dimensions and self.database.dsn.sqlite:
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
    ) -> "_Looked":
        parameters: dict[str, Any] = {"page": comparable(query.page_url or ""), "limit": limit}
        where = Where(
            in_one_book=shelf.book is not None,
            has_many_books=len(shelf.rows) > 1,
            has_here=shelf.book is not None,
            has_contents=shelf.single is not None and is_about_structure(query.question),
            is_counted=shelf.is_counted,
        )
        if shelf.book:
            parameters["book"] = shelf.book.id
        if where.has_contents and shelf.single:
            parameters["contents"] = shelf.single.id
        question, before = words_of(query.question), words_of(previous or "")
        if self.database.dsn.sqlite:
            if "english" in shelf.configurations:
                question, before = without_common(question), without_common(before)
            book = shelf.book.id if shelf.book else None
            nearest, cosine = await self._vectors.nearest(vector, book) if vector else ([], None)
            parameters |= {"question": _any_of(question), "previous": _any_of(before)}
            parameters |= {"nearest": json.dumps(nearest), "cosine": cosine}
            statement = search_sqlite(where)
        else:
            parameters |= {
                "question": " ".join(question),
                "previous": " ".join(before),
                "configurations": shelf.configurations,
                "chunks": shelf.chunks,
                "average_length": shelf.average_length,
            }
            meaning = self._meaning(shelf) if vector else None
            if vector and meaning:
                parameters["embedding"] = padded(vector)
                if meaning.is_mixed:
                    parameters |= {"model": self._embedder.model, "dimensions": str(len(vector))}
            statement = search_postgresql(meaning, where)
        return _Looked(shelf, await self.database.execute((statement, parameters)))

    def _meaning(self, shelf: Shelf) -> Meaning | None:
        """Return how PostgreSQL is to compare the embeddings: all exactly as long as there are few, else through their index.

        To find the nearest of one book, the index goes through those of all: it is asked for them only if it can, and if that
        takes less than to compare those of the book. It takes as long as to compare a tenth of what is always compared exactly,
        times how many books of this size there are.
        """
        if shelf.vector_schema is None:
            return None
        is_iterative = shelf.vector_version >= _ITERATIVE_VERSION
        is_selective = shelf.book is not None and self._shelf.single is None
        has_index = shelf.has_index and shelf.chunks > self._exact_chunks
        if has_index and is_selective:
            has_index = is_iterative and shelf.chunks > self._exact_chunks / 10 * self._shelf.chunks / shelf.chunks
        return Meaning(
            shelf.vector_schema,
            is_mixed=len(shelf.embeddings) > 1,
            has_index=has_index,
            is_iterative=has_index and is_iterative,
        )


@dataclass(frozen=True)
class _Looked:
    """What a search brought."""

    shelf: Shelf
    rows: Sequence[Row[Any]] = ()

    @property
    def hits(self) -> list[Hit]:
        """The chunks that were found, best first."""
        found = sorted((row for row in self.rows if row.kind == "hit"), key=lambda row: row.place)
        return [Hit(*tuple(row)[2:9]) for row in found]

    def findings(self, query: Query) -> Findings:
        """Return what the model is to be sent: the table of contents if it was read, and the chunks if they fit."""
        hits = self.hits if self._fits(query.question) else []
        contents: list[Passage] = []
        if self.shelf.single and is_about_structure(query.question):
            pages = sorted((row for row in self.rows if row.kind == "contents"), key=lambda row: row.place)
            here = next((row.source for row in self.rows if row.kind == "here"), None)
            contents = contents_passages(self.shelf.single.address, pages, query.question, here=here)
        if contents:
            hits = hits[:_HITS_BESIDE_CONTENTS] if subject_of(query.question) else []
        return Findings(
            [*contents, *as_passages(hits)],
            book_title=self.shelf.book.title if self.shelf.book else None,
            page_title=_title_of(self.rows),
            is_silent=bool(self.shelf.chunks) and not (contents or hits),
        )

    def _fits(self, question: str) -> bool:
        """Whether what was found says anything on the question.

        Its meaning is near, a chunk has most words of it, or a heading all of them. Without meaning, one word is enough that is
        not in most chunks.
        """
        found = next((row for row in self.rows if row.kind == "hit"), None)
        if found is None or self.shelf.chunks < _FEW_CHUNKS:
            return found is not None
        if found.cosine is None:
            fits = bool(found.is_telling)
        else:
            fits = found.cosine >= _LEAST_COSINE or any(
                _covers(f"{hit.title} {hit.text}", question) for hit in self.hits
            )
        return fits or any(_is_heading(hit.title, question) for hit in self.hits)


def _covers(text: str, question: str) -> bool:
    """Whether the text has most words of the question's subject, and at least two."""
    count, of = _count_words(text, question)
    return count > 1 and count * 2 > of


def _is_heading(title: str, question: str) -> bool:
    """Whether the title has every word of the question's subject."""
    count, of = _count_words(title, question)
    return count == of > 0


def _count_words(text: str, question: str) -> tuple[int, int]:
    """Return how many different words of the question's subject the text has, whatever their endings, and how many there are."""
    beginnings = {word[: max(_SHORTEST_BEGINNING, len(word) - 2)] for word in subject_of(question)}
    words = searchable(text).casefold().split()
    return sum(any(word.startswith(beginning) for word in words) for beginning in beginnings), len(beginnings)


def _title_of(rows: Sequence[Row[Any]]) -> str | None:
    """Return the title of the page among the rows, after that of its part of the book."""
    here = next((row for row in rows if row.kind == "here"), None)
    if here is None:
        return None
    return here.title if here.page in {None, here.title} else f"{here.page}{SEPARATOR}{here.title}"


async def _asks_about_page(query: Query) -> bool:
    if query.scope == "page":
        return True
    # Most questions are known not to before the conversation has been read.
    if query.page_url is None or not is_about_page(query.question):
        return False
    return is_about_page(query.question, await query.previous_question)


def as_passages(hits: Sequence[Hit]) -> list[Passage]:
    """Return the hits as passages of together at most 8,000 bytes: the first ones whole, and of the last ones the beginning."""
    room = _PASSAGES_BYTES
    passages = []
    for number, hit in enumerate(hits, 1):
        text = shortened(hit.text, room - _SHORTEST_BYTES * (len(hits) - number))
        room -= len(text.encode())
        passages.append(Passage(text=text, source=hit.source, title=hit.title))
    return passages


def words_of(question: str) -> list[str]:
    """Return the different words of a question, in their order."""
    words = without_common_urdu(dict.fromkeys(searchable(question).lower().split()))
    if len(words) > _MOST_WORDS:
        longest = set(heapq.nlargest(_MOST_WORDS, words, key=len))
        words = [word for word in words if word in longest]
    return words


def _any_of(words: Sequence[str]) -> str:
    """Return the FTS5 query for chunks that have any of the words; no chunk has the empty phrase."""
    return " OR ".join(f'"{word}"' for word in words) or '""'
