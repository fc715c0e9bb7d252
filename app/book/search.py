"""Finding the passages that a question needs: by words and by meaning, on PostgreSQL and on SQLite."""

import asyncio
import heapq
import json
import logging
import math
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Self
from urllib.parse import unquote

from sqlalchemy import ARRAY, REAL, Text, TextClause, bindparam, text

from app.book.embeddings import Embedder, Vector, padded
from app.book.questions import QuestionEmbedder
from app.book.words import CONFIGURATION_SQL, configuration, searchable
from app.config import Settings
from app.database import Database
from app.logs import keep_out_of_log
from app.models import EMBEDDING_DIMENSIONS
from app.retrieval import Passage, Query

logger = logging.getLogger(__name__)

PASSAGES = 6
PASSAGE_BYTES = 8_000
"""What the passages may have together. A token has about four bytes, in English as in Urdu and Chinese."""
_SHORTEST_CUT = 800

EMBEDDING_SECONDS = 1.5
"""How long a question waits for its embedding; after that its words alone decide."""
READING_SECONDS = 10.0
"""How old what is known of the book may be."""

PREVIOUS_WEIGHT = 0.3
"""How much the question before counts: enough for "And its price?", and too little to hold on to a subject that has changed."""

_MOST_WORDS = 64
"""Of a longer question, such as a pasted log, the longest words are looked up."""
_RESCORED = 200


@dataclass(frozen=True)
class Hit:
    """A chunk that was found, and why."""

    text: str
    source: str
    title: str
    page: str
    score: float
    """Its fused score."""
    words_rank: int | None
    """Its place among the chunks found by words, from 1; None if it is not among the first."""
    meaning_rank: int | None
    """Its place among the chunks found by meaning."""


@dataclass(frozen=True)
class Book:
    """What is known of the book that the database holds."""

    rows: Sequence[tuple[Any, ...]] = ()
    """Each locale and embedding model, with the number of their chunks and so on; as long as they are equal, so is the book."""
    vector_schema: str | None = None
    """The schema of pgvector, quoted, if the embeddings are of its type."""

    @property
    def chunks(self) -> int:
        """How many chunks it has."""
        return sum(row[3] for row in self.rows)

    @property
    def average_length(self) -> float:
        """How many words a chunk has."""
        return max(1.0, sum(row[4] or 0 for row in self.rows) / max(1, self.chunks))

    @property
    def configurations(self) -> list[str]:
        """The text search configurations of its languages."""
        return sorted({configuration(row[0]) for row in self.rows})

    @cached_property
    def embeddings(self) -> frozenset[tuple[str, int]]:
        """The models of its embeddings, each with the number of dimensions."""
        return frozenset((row[1], row[2]) for row in self.rows if row[1] is not None)


class BookSearch:
    """The retriever that searches the book in the database, by words and, if the book has embeddings, by meaning.

    It is a context manager: its block is the time in which it can be called. What is known of the book is read at the start
    and then, at most every ten seconds, beside a question; so a question costs one round trip, and none without a book.
    """

    def __init__(self, settings: Settings, database: Database, *, embedding_seconds: float = EMBEDDING_SECONDS) -> None:
        self._database = database
        self._embedding_seconds = embedding_seconds
        self._embedder = Embedder(settings)
        self.questions = QuestionEmbedder(self._embedder)
        self._book = Book()
        self._read_at = -math.inf
        self._reading: asyncio.Task[None] | None = None
        self._signs = Signs(database)
        self._said_of: Book | None = None

    async def __aenter__(self) -> Self:
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._reading:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._embedder.close()

    async def __call__(self, query: Query) -> Sequence[Passage]:
        """Return the passages for the query, best first; raises DatabaseError."""
        return passages(await self.search(query, limit=PASSAGES))

    async def search(self, query: Query, *, limit: int, by_meaning: bool = True) -> list[Hit]:
        """Return the chunks that fit the query best, at most three of a page; raises DatabaseError."""
        deadline = time.monotonic() + self._embedding_seconds
        embedding: asyncio.Task[Vector | None] | None = None
        try:
            if by_meaning and self._has_meaning(self._book):
                embedding = asyncio.create_task(self.questions.embed(query.question, deadline))
            book = await self._current()
            if not book.chunks:
                return []
            if embedding is None and by_meaning and self._has_meaning(book):
                embedding = asyncio.create_task(self.questions.embed(query.question, deadline))
            previous = await query.previous_question
            keep_out_of_log(previous)
            meaning = await self._meaning(book, embedding, previous, deadline) if embedding else None
        finally:
            if embedding:
                embedding.cancel()
        return await self._find(book, query, previous, meaning, limit)

    async def _meaning(
        self, book: Book, embedding: asyncio.Task[Vector | None], previous: str | None, deadline: float
    ) -> Vector | None:
        """Return the vector to look for, None if the question cannot be embedded."""
        question, before = await asyncio.gather(embedding, self.questions.embed(previous, deadline))
        if question is None:
            return None
        [(_, dimensions)] = book.embeddings
        if len(question) != dimensions:
            self._say_once(book, "book.embeddings_differ", dimensions=dimensions, dimensions_now=len(question))
            return None
        if before is None or len(before) != dimensions:
            return question
        # The cosine with the sum is, but for a factor, the sum of the cosines.
        return [a + PREVIOUS_WEIGHT * b for a, b in zip(question, before, strict=True)]

    def _has_meaning(self, book: Book) -> bool:
        """Whether the question's embedding can be compared with the book's."""
        if not book.embeddings or not (
            self._embedder.is_available and (self._database.dsn.sqlite or book.vector_schema)
        ):
            return False
        models = {model for model, _ in book.embeddings}
        if len(book.embeddings) > 1 or models != {self._embedder.model}:
            self._say_once(book, "book.embeddings_differ", models=sorted(models), model_now=self._embedder.model)
            return False
        return True

    def _say_once(self, book: Book, event: str, **fields: object) -> None:
        if self._said_of != book:
            self._said_of = book
            logger.warning(event, extra={"fields": fields})

    async def _current(self) -> Book:
        """Return what is known of the book, read again if that is not recent."""
        if self._reading is None and time.monotonic() - self._read_at > READING_SECONDS:
            self._reading = asyncio.create_task(self._read())
        if self._reading:
            await asyncio.shield(self._reading)
        return self._book

    async def _read(self) -> None:
        try:
            statement = _STATE_SQLITE if self._database.dsn.sqlite else _STATE_POSTGRESQL
            rows = await self._database.execute((statement, {}))
            book = Book([tuple(row)[:-1] for row in rows], rows[0].vector_schema if rows else None)
            if self._database.dsn.sqlite and self._has_meaning(book):
                await self._signs.load(book)
            self._book = book
        finally:
            self._read_at = time.monotonic()
            self._reading = None

    async def _find(
        self, book: Book, query: Query, previous: str | None, meaning: Vector | None, limit: int
    ) -> list[Hit]:
        page = address(query.page_url) if query.page_url else ""
        parameters: dict[str, Any] = {"page": page, "page_decoded": unquote(page), "limit": limit}
        question, before = words_of(query.question), words_of(previous or "")
        if self._database.dsn.sqlite:
            nearest = await self._signs.nearest(meaning) if meaning else []
            parameters |= {"meaning": json.dumps(nearest), "question": _any_of(question), "previous": _any_of(before)}
            statement = _SQLITE
        else:
            parameters |= {"question": " ".join(question), "previous": " ".join(before)}
            parameters |= {
                "configurations": book.configurations,
                "chunks": book.chunks,
                "average_length": book.average_length,
            }
            if meaning:
                parameters["embedding"] = padded(meaning)
            statement = _postgresql(book.vector_schema if meaning else None)
        return [Hit(*tuple(row)) for row in await self._database.execute((statement, parameters))]


def passages(hits: Sequence[Hit]) -> list[Passage]:
    """Return the hits as passages of together at most 8,000 bytes: the first ones whole, the last ones cut if need be."""
    room = PASSAGE_BYTES
    found = []
    for number, hit in enumerate(hits, 1):
        # Each of those that follow is to have room for its beginning.
        text = cut(hit.text, room - _SHORTEST_CUT * (len(hits) - number))
        room -= len(text.encode())
        found.append(Passage(text=text, source=hit.source, title=hit.title))
    return found


def cut(text: str, size: int) -> str:
    """Return the text, or its beginning up to the end of a paragraph, a line or a word if it has more bytes than this."""
    data = text.encode()
    if len(data) <= size:
        return text
    beginning = data[: size - len(_ELLIPSIS.encode())].decode(errors="ignore")
    ends = (beginning.rfind(end) for end in ("\n\n", "\n", " "))
    end = next((end for end in ends if end > len(beginning) / 2), len(beginning))
    return beginning[:end].rstrip() + _ELLIPSIS


def address(url: str) -> str:
    """Return a page's address as it is compared: without fragment, query and a slash at its end."""
    return url.partition("#")[0].partition("?")[0].rstrip("/")


def words_of(question: str) -> list[str]:
    """Return the different words of the question, in their order."""
    words = list(dict.fromkeys(searchable(question).lower().split()))
    if len(words) > _MOST_WORDS:
        longest = set(heapq.nlargest(_MOST_WORDS, words, key=len))
        words = [word for word in words if word in longest]
    return words


def _any_of(words: Sequence[str]) -> str:
    """Return the FTS5 query for chunks with any of the words; no chunk has the empty phrase."""
    return " OR ".join(f'"{word}"' for word in words) or '""'


class Signs:
    """Finds vectors in SQLite: the signs of all dimensions are compared in memory, and the best vectors exactly.

    For a chunk of 1,536 dimensions that takes a few hundred bytes.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loaded: Book | None = None
        self._ids: list[str] = []
        self._signs: list[int] = []

    async def load(self, book: Book) -> None:
        """Read the signs, unless those of this book are read already; raises DatabaseError."""
        if self._loaded == book:
            return
        ids: list[str] = []
        signs: list[int] = []
        while rows := await self._database.execute((_EMBEDDINGS_AFTER, {"id": ids[-1] if ids else ""})):
            ids += [row.id for row in rows]
            signs += [_signs(row.embedding) for row in rows]
        self._ids, self._signs, self._loaded = ids, signs, book

    async def nearest(self, vector: Vector) -> list[str]:
        """Return the ids of the chunks that are closest to the vector, best first; raises DatabaseError."""
        wanted = _signs(struct.pack(f"<{EMBEDDING_DIMENSIONS}f", *padded(vector)))
        distances = [(wanted ^ signs).bit_count() for signs in self._signs]
        candidates = heapq.nsmallest(_RESCORED, range(len(distances)), key=distances.__getitem__)
        ids = json.dumps([self._ids[index] for index in candidates])
        rows = await self._database.execute((_EMBEDDINGS_OF, {"ids": ids}))
        unpack = struct.Struct(f"<{len(vector)}f").unpack_from  # After these there are only zeros.
        scored = ((math.sumprod(vector, unpack(row.embedding)), row.id) for row in rows)
        return [key for _, key in heapq.nlargest(_RANKED, scored)]


def _signs(packed: bytes) -> int:
    """Return the signs of packed floats as the bits of a number; each is the highest bit of a float's last byte."""
    return int(packed[3::4].translate(_SIGN_DIGITS), 2)


_SIGN_DIGITS = b"0" * 128 + b"1" * 128
_ELLIPSIS = " …"
_RANKED = 20
"""How many chunks each way of searching contributes."""
_FUSION = 60
"""The constant of reciprocal rank fusion."""
_PER_PAGE = 3

_EMBEDDINGS_AFTER = text("""
    SELECT id, embedding FROM documents WHERE embedding IS NOT NULL AND id > :id ORDER BY id LIMIT 500
""")
_EMBEDDINGS_OF = text("""
    SELECT id, embedding FROM documents WHERE embedding IS NOT NULL AND id IN (SELECT value FROM json_each(:ids))
""")

_STATE_POSTGRESQL = text("""
    SELECT metadata ->> 'locale' AS locale,
           CASE WHEN embedding IS NOT NULL THEN metadata ->> 'model' END AS model,
           CASE WHEN embedding IS NOT NULL THEN CAST(metadata ->> 'dimensions' AS integer) END AS dimensions,
           count(*) AS chunks, sum(length) AS words, max(created_at) AS created_at,
           (SELECT quote_ident(nspname)
            FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid JOIN pg_namespace ON pg_namespace.oid = typnamespace
            WHERE attrelid = 'documents'::regclass AND attname = 'embedding' AND typname = 'vector') AS vector_schema
    FROM documents LEFT JOIN document_words USING (id) GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
""")
_STATE_SQLITE = text("""
    SELECT json_extract(metadata, '$.locale') AS locale,
           iif(embedding IS NOT NULL, json_extract(metadata, '$.model'), NULL) AS model,
           iif(embedding IS NOT NULL, json_extract(metadata, '$.dimensions'), NULL) AS dimensions,
           count(*) AS chunks, NULL AS words, max(created_at) AS created_at, NULL AS vector_schema
    FROM documents GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
""")

# BM25, with the usual constants 1.2 and 0.75. PostgreSQL has no function for a word's frequency in a document, but the rank
# of a single word follows from it: it is the sum of 1/n² up to the frequency, divided by that of all. This is the inverse,
# exact to a hundredth.
_WORDS_POSTGRESQL = f"""
    WITH configurations AS (
        SELECT DISTINCT {CONFIGURATION_SQL} AS name FROM unnest(:configurations) AS given (configuration)
    ),
    asked AS (
        SELECT lexeme, sum(weight) AS weight, CAST( || lexeme ||  AS tsquery) AS query
        FROM (
            SELECT DISTINCT lexeme, 1.0 AS weight FROM configurations, unnest(to_tsvector(name, :question))
            UNION ALL
            SELECT DISTINCT lexeme, {PREVIOUS_WEIGHT} FROM configurations, unnest(to_tsvector(name, :previous))
        )
        GROUP BY lexeme
    ),
    occurrences AS MATERIALIZED (
        SELECT lexeme, weight, id, length,
               1 / (pi() ^ 2 / 6 * (1 - ts_rank('{{1, 1, 1, 1}}', words, query))) - 0.5 AS frequency
        FROM asked JOIN document_words ON words @@ query
    ),
    rarity AS (
        SELECT lexeme, ln(1 + greatest(0, :chunks - count(*) + 0.5) / (count(*) + 0.5)) AS rarity
        FROM occurrences GROUP BY lexeme
    ),
    by_words AS (
        SELECT id, rank() OVER (ORDER BY score DESC) AS rank
        FROM (
            SELECT id, sum(
                weight * rarity * frequency * 2.2 / (frequency + 1.2 * (0.25 + 0.75 * length / :average_length))
            ) AS score
            FROM occurrences JOIN rarity USING (lexeme) GROUP BY id
        )
        ORDER BY score DESC LIMIT {_RANKED}
    ),
"""  # noqa: S608  # Constants.

# FTS5 has BM25. It can only be called where its table is searched.
_WORDS_SQLITE = f"""
    WITH found AS MATERIALIZED (
        SELECT id, -bm25(document_words, 0, 2, 1) AS score FROM document_words WHERE document_words MATCH :question
    ),
    found_before AS MATERIALIZED (
        SELECT id, -bm25(document_words, 0, 2, 1) AS score FROM document_words WHERE document_words MATCH :previous
    ),
    by_words AS (
        SELECT id, rank() OVER (ORDER BY score DESC) AS rank
        FROM (
            SELECT id, sum(score) AS score
            FROM (SELECT * FROM found UNION ALL SELECT id, {PREVIOUS_WEIGHT} * score FROM found_before)
            GROUP BY id
        )
        WHERE id IN (SELECT id FROM documents)
        ORDER BY score DESC LIMIT {_RANKED}
    ),
"""  # noqa: S608  # Constants.

_MEANING_SQLITE = """
    by_meaning AS (SELECT value AS id, key + 1 AS rank FROM json_each(:meaning)),
"""
_NO_MEANING = """
    by_meaning AS (SELECT id, rank FROM by_words WHERE false),
"""

_FUSED = f"""
    fused AS (
        SELECT id, sum(1.0 / ({_FUSION} + rank)) AS score, max(words_rank) AS words_rank, max(meaning_rank) AS meaning_rank
        FROM (
            SELECT id, rank, rank AS words_rank, NULL AS meaning_rank FROM by_words
            UNION ALL
            SELECT id, rank, NULL, rank FROM by_meaning
        ) AS ranked
        GROUP BY id
    ),
    placed AS (
        SELECT fused.*, {{page}} AS page, rtrim({{page}}, '/') IN (:page, :page_decoded) AS is_here
        FROM fused JOIN documents USING (id)
    ),
    counted AS (
        SELECT *, row_number() OVER (PARTITION BY page ORDER BY score DESC, words_rank, id) AS place FROM placed
    )
    SELECT content AS text, source, title, page, score, words_rank, meaning_rank
    FROM counted JOIN documents USING (id)
    WHERE place <= {_PER_PAGE}
    ORDER BY score DESC, is_here DESC, meaning_rank, words_rank, id LIMIT :limit
"""  # noqa: S608  # Constants.

_SQLITE = text(_WORDS_SQLITE + _MEANING_SQLITE + _FUSED.format(page="json_extract(metadata, '$.page')"))


@lru_cache
def _postgresql(vector_schema: str | None) -> TextClause:
    """Return the statement that searches by words and, if the schema of pgvector is given, by meaning."""
    by_meaning = _NO_MEANING
    parameters = [bindparam("configurations", type_=ARRAY(Text))]
    if vector_schema:
        # The parameter is converted once; written without SELECT, it would be for every row.
        by_meaning = f"""
            by_meaning AS (
                SELECT id, rank() OVER (ORDER BY distance) AS rank
                FROM (
                    SELECT id, embedding OPERATOR({vector_schema}.<=>) (
                        SELECT CAST(:embedding AS {vector_schema}.vector)
                    ) AS distance
                    FROM documents WHERE embedding IS NOT NULL
                    ORDER BY distance LIMIT {_RANKED}
                )
            ),
        """  # noqa: S608  # Constants, and a name that PostgreSQL has quoted.
        parameters.append(bindparam("embedding", type_=ARRAY(REAL)))
    page = "(metadata ->> 'page')"
    return text(_WORDS_POSTGRESQL + by_meaning + _FUSED.format(page=page)).bindparams(*parameters)
