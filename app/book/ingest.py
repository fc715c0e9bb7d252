"""Storing the book: what has changed is embedded, and then the database goes from the old book to the new one at once."""

import asyncio
import hashlib
import json
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import batched
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Integer,
    LargeBinary,
    Row,
    Select,
    Text,
    Uuid,
    bindparam,
    delete,
    func,
    select,
    text,
    type_coerce,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import col

from app.book.catalogue import begin_book, finish_book
from app.book.chunks import Chunk
from app.book.crawl import Known
from app.book.embedding_index import EXACT_CHUNKS, Indexing, index_embeddings
from app.book.embeddings import Embedder, EmbeddingError, Vector, padded
from app.book.pages import pages_of
from app.book.rows import Packed, RowWriter, unpacked
from app.book.shelf import book_id, comparable
from app.book.tree import Book
from app.book.words import index_words, prune_words
from app.database import FAILURES, REVISION, VERSION_TABLE, Database, command_engine, reason
from app.dsn import Dsn
from app.models import Document, PackedVector, PaidEmbedding, StoredBook

LOCK = 0x626F6F6C
"""The advisory lock that makes books replace each other one at a time."""

_BATCH = 500
_SQLITE_BUSY_SECONDS = 60

_AT_ONCE = 6
"""How many batches are embedded at the same time."""
_STOP_SECONDS = 10.0
"""How long a run that is stopped waits for what it has asked for, since that is paid for."""

type OnProgress = Callable[[int, int, int], None]
"""Is told how many of how many chunks are embedded, and about how many tokens all of them have."""


class IngestError(Exception):
    """The book could not be stored, and the old one is as it was; the message says why."""


@dataclass
class Report:
    """What an ingest did to the book in the database."""

    new: int = 0
    """Chunks that are stored for the first time; a chunk whose text has changed is a new one."""
    unchanged: int = 0
    """Chunks with the same text as before, perhaps in another place."""
    deleted: int = 0
    embedded: int = 0
    """Chunks that were sent to the embedding model."""
    tokens: int = 0
    """How many tokens they had, as far as the server says so."""
    without_embedding: int = 0
    """Chunks that are found by their words alone."""
    replaced: Counter[tuple[str, int]] = field(default_factory=Counter)
    """How many chunks had embeddings of another model or with other dimensions, which are replaced."""
    has_pgvector: bool = True
    """Whether the database can compare embeddings."""
    indexing: Indexing = field(default_factory=Indexing)
    """What became of the index of embeddings."""
    others: list[tuple[str, str, int]] = field(default_factory=list)
    """The embeddings of the other books in the database: address, embedding model, number of chunks."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """The row of a chunk that the database has."""

    id: uuid.UUID
    source: str
    position: int
    digest: str
    page: str | None
    locale: str | None
    model: str | None
    dimensions: int
    """How many numbers its embedding has; 0 without one."""
    origin: dict[str, str] | None


@dataclass
class _Plan:
    """What has to happen to the rows of the book."""

    new: list[tuple[str, Chunk]] = field(default_factory=list)
    """Chunks that there is no row of, each after its digest."""
    kept: list[tuple["_Stored", Chunk]] = field(default_factory=list)
    """Rows, each with the chunk that it holds."""
    vanished: list[uuid.UUID] = field(default_factory=list)
    """Rows of which there is no chunk any more."""


async def ingest(  # noqa: PLR0913  # Each is what the run is about.
    book: Book,
    dsn: Dsn,
    embedder: Embedder | None,
    *,
    locale: str | None = None,
    title: str | None = None,
    on_progress: OnProgress = lambda _done, _of, _tokens: None,
    on_stored: Callable[[Report], None] = lambda _report: None,
    exact_chunks: int = EXACT_CHUNKS,
) -> Report:
    """Make the database hold exactly these chunks of the book at its address; other books in it stay as they are.

    Without a title the book has the one of its site, or else the one that it has already.

    Embeddings are made for what has none of this embedder's; without an embedder, the chunks are stored with those they
    have. Each batch of embeddings is kept as soon as it is paid for, so that a run after one that failed goes on from there.
    Afterwards, and after `on_stored`, the embeddings are indexed if the database has more than `exact_chunks`. Raises IngestError.
    """
    async with _opened(dsn) as engine:
        try:
            report = await _Ingest(engine, book, embedder, locale, title or book.title, on_progress).run()
        except EmbeddingError as error:
            raise IngestError(
                f"The embeddings could not be made: {error}\n"
                "The book is as it was. What is embedded already is kept: run the same command again to go on."
            ) from error
        on_stored(report)
        if not dsn.sqlite:
            report.indexing = await index_embeddings(engine, exact_chunks=exact_chunks)
        return report


async def known_pages(url: str, dsn: Dsn) -> dict[str, Known]:
    """Return what the database has of a book that was read from its running site, by where each page came from.

    Raises IngestError.
    """
    async with _opened(dsn) as engine, engine.connect() as connection:
        rows = (await connection.execute(_chunks_of(book_id(url)))).all()
    by_page: dict[str, list[Chunk]] = defaultdict(list)
    origins: dict[str, dict[str, str]] = {}
    for row in rows:
        by_page[row.page].append(Chunk(row.source, row.page, row.title, row.position, row.content))
        if row.origin:
            origins[row.page] = row.origin
    return {origin["from"]: Known(origin, by_page[page]) for page, origin in origins.items()}


async def remove(url: str, dsn: Dsn) -> int:
    """Delete the book that was read in under this address; returns how many chunks it had. Raises IngestError."""
    async with _opened(dsn) as engine, _transaction(engine) as connection:
        statement = delete(StoredBook).where(col(StoredBook.id) == book_id(url)).returning(col(StoredBook.chunks))
        chunks = (await connection.execute(statement)).scalar()
        if chunks is None:
            others = await connection.scalars(select(col(StoredBook.address)).order_by(col(StoredBook.address)))
            raise IngestError(
                "\n".join([f"The database has no book of {url}", *(f"It has {other}" for other in others)])
            )
        await prune_words(connection)
        return chunks


@asynccontextmanager
async def _opened(dsn: Dsn) -> AsyncIterator[AsyncEngine]:
    """Open the database, migrated; what fails in the block leaves it as an IngestError."""
    database = Database(dsn, pool_size=1) if dsn.sqlite else None
    engine = database.engine if database else command_engine(dsn)
    try:
        if database:
            await database.migrate()
        else:
            await _check_revision(engine)
        yield engine
    except FAILURES as error:
        raise IngestError(f"The database failed, and the book is as it was: {reason(error)}") from error
    finally:
        await engine.dispose()


async def _check_revision(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        is_migrated = await connection.scalar(text("SELECT to_regclass(:table)"), {"table": VERSION_TABLE})
        revision = await connection.scalar(_REVISION) if is_migrated else None
    if (revision or "") < REVISION:
        raise IngestError("The database is not migrated. Please run: uv run alembic upgrade head")


@asynccontextmanager
async def _transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Run the block in a transaction; no two of them run at the same time."""
    async with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            async with connection.begin():
                await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
                yield connection
            return
        await connection.execute(text(f"PRAGMA busy_timeout = {_SQLITE_BUSY_SECONDS * 1000}"))
        await connection.execute(text("BEGIN IMMEDIATE"))  # The engine itself commits each statement.
        try:
            yield connection
        except BaseException:
            await connection.execute(text("ROLLBACK"))
            raise
        await connection.execute(text("COMMIT"))


def digest(chunk: Chunk) -> str:
    """Return what identifies the text of a chunk, wherever it stands."""
    return hashlib.sha256(embedded_text(chunk).encode()).hexdigest()


def embedded_text(chunk: Chunk) -> str:
    """Return what is embedded of a chunk."""
    return f"{chunk.title}\n\n{chunk.text}"


class _Ingest:
    """One run."""

    def __init__(  # noqa: PLR0913, PLR0917  # Each is what the run is about.
        self,
        engine: AsyncEngine,
        book: Book,
        embedder: Embedder | None,
        locale: str | None,
        title: str | None,
        on_progress: OnProgress,
    ) -> None:
        self._engine = engine
        self._vector_schema: str | None = None
        """Where pgvector is."""
        self._book = book
        self._id = book_id(book.url)
        self._title = title
        self._embedder = embedder
        self._locale = locale
        self._on_progress = on_progress
        self._chunks = [(digest(chunk), chunk) for chunk in book.chunks]
        self._dimensions: int | None = None
        """How many the model's vectors have, once it has answered."""
        self._has_borrowed = False
        self._done = 0
        self._chars = 0
        self._embedded_chars = 0
        self._keeping = asyncio.Lock()
        """SQLite has one writer at a time."""
        self._report = Report()

    async def run(self) -> Report:
        await self._find_pgvector()
        while missing := await self._store():
            await self._embed(await self._borrow(missing))
        return self._report

    async def _find_pgvector(self) -> None:
        """Do without embeddings where the database cannot compare them."""
        async with self._engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                self._vector_schema = await connection.scalar(_VECTOR_SCHEMA)
                if self._vector_schema is None:
                    self._embedder, self._report.has_pgvector = None, False

    async def _store(self) -> list[str]:
        """Replace the old book by the new one, or change nothing and return the digests of what has to be embedded first."""
        async with _transaction(self._engine) as connection:
            plan = _plan(self._chunks, [_stored(row) for row in await connection.execute(_rows_of(self._id))])
            wanted, paid = await self._embeddings(connection, plan)
            if missing := [key for key in wanted if key not in paid]:
                return missing
            await begin_book(connection, self._id, self._book.url)
            for batch in batched(plan.vanished, _BATCH):
                await connection.execute(delete(Document).where(col(Document.id).in_(batch)))
            changed = [(row, chunk) for row, chunk in plan.kept if self._is_changed(row, chunk, paid)]
            for rows in batched(changed, _BATCH):
                await self._update(connection, rows, paid)
            writer = RowWriter(connection, vector_schema=self._vector_schema)
            for chunks in batched(plan.new, _BATCH):
                await self._insert(connection, writer, chunks, paid)
            if plan.vanished:
                await prune_words(connection)
            for keys in batched(paid, _BATCH):
                await connection.execute(delete(PaidEmbedding).where(col(PaidEmbedding.digest).in_(keys)))
            pages = pages_of(self._book.url, self._book.chunks, self._book.parts)
            await finish_book(connection, self._id, title=self._title, locale=self._locale, pages=pages)
            self._note(plan, paid)
            self._report.others = [
                (address, found["model"], found["chunks"])
                for address, embeddings in await connection.execute(_others_than(self._id))
                for found in embeddings
            ]
        return []

    async def _embeddings(self, connection: AsyncConnection, plan: _Plan) -> tuple[list[str], dict[str, int]]:
        """Return the digests of the chunks without an embedding of the model, and the dimensions of those that are paid for."""
        if self._embedder is None:
            return [], {}
        sizes = Counter(row.dimensions for row, _ in plan.kept if row.model == self._embedder.model)
        dimensions = self._dimensions or _most_common(sizes)
        good = {row.digest for row, _ in plan.kept if (row.model, row.dimensions) == (self._embedder.model, dimensions)}
        wanted = list(dict.fromkeys(key for key, _ in self._chunks if key not in good))
        paid: dict[str, int] = {}
        if wanted:
            sizes_of = {row.digest: row.bytes // 4 for row in await connection.execute(_sizes(self._embedder.model))}
            paid = {key: sizes_of[key] for key in wanted if key in sizes_of}
        dimensions = dimensions or _most_common(Counter(paid.values()))
        return wanted, {key: size for key, size in paid.items() if size == dimensions}

    async def _borrow(self, missing: list[str]) -> list[str]:
        """Take the embeddings that other books in the database have of the same text; returns what is still missing.

        The versions of a book have most of their text in common.
        """
        if self._embedder is None or self._has_borrowed:
            return missing
        self._has_borrowed = True
        found: dict[str, uuid.UUID] = {}
        borrowed: set[str] = set()
        async with self._engine.connect() as connection:
            others = (await connection.execute(_others_than(self._id))).all()
            if any(of["model"] == self._embedder.model for _, embeddings in others for of in embeddings):
                # No index has the digests, so the rows are read once for all that are missing.
                is_sqlite = connection.dialect.name == "sqlite"
                wanted = json.dumps(missing) if is_sqlite else missing
                statement = _embedded(self._embedder.model, self._id, is_sqlite=is_sqlite)
                rows = await connection.execute(statement, {"wanted": wanted})
                found = {row.digest: row.id for row in rows}
        for keys in batched(found.values(), _BATCH):
            async with self._engine.connect() as connection:
                # The other book may have been read in anew meanwhile.
                rows_of = (await connection.execute(_embeddings_of(keys, self._embedder.model))).all()
            await self._keep({row.digest: row.embedding[: row.dimensions] for row in rows_of})
            borrowed.update(row.digest for row in rows_of)
        return [key for key in missing if key not in borrowed]

    async def _embed(self, missing: list[str]) -> None:
        """Embed what has these digests, and keep each batch; raises EmbeddingError.

        The first batch shows what the server accepts; then several are under way at once. When the run is stopped, or one of
        them fails, those that are under way and so paid for are waited for and kept.
        """
        if self._embedder is None or not missing:
            return
        texts = {key: embedded_text(chunk) for key, chunk in self._chunks}
        total, self._done = len(missing), 0
        self._show(total, sum(len(texts[key]) for key in missing))
        first = next(self._embedder.batches(texts[key] for key in missing))
        await self._finish({asyncio.create_task(self._embed_batch(missing[: len(first)], texts, total))})
        rest = missing[len(first) :]
        running: set[asyncio.Task[None]] = set()
        position = 0
        try:
            for batch in self._embedder.batches(texts[key] for key in rest):
                keys = rest[position : position + len(batch)]
                position += len(batch)
                if len(running) >= _AT_ONCE:
                    done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
                running.add(asyncio.create_task(self._embed_batch(keys, texts, total)))
        except asyncio.CancelledError:
            await self._stop(running)
            raise
        finally:
            await self._finish(running)

    async def _embed_batch(self, keys: Sequence[str], texts: Mapping[str, str], total: int) -> None:
        if self._embedder is None:
            return
        vectors = await self._embedder.embed([texts[key] for key in keys])
        if self._dimensions not in {None, len(vectors[0])}:
            raise EmbeddingError("dimensions", "The model's embeddings changed their dimensions.")
        self._dimensions = len(vectors[0])
        async with self._keeping:
            await self._keep(dict(zip(keys, vectors, strict=True)))
        self._done += len(keys)
        self._report.embedded += len(keys)
        self._report.tokens = self._embedder.tokens
        self._embedded_chars += sum(len(texts[key]) for key in keys)
        self._show(total, None)

    def _show(self, total: int, chars: int | None) -> None:
        """Tell how far it is, and about how many tokens there will be: a quarter of the characters until it is known better."""
        self._chars = self._chars if chars is None else chars
        tokens = self._report.tokens
        rate = tokens / self._embedded_chars if tokens and self._embedded_chars else 0.25
        self._on_progress(self._done, total, round(self._chars * rate))

    @staticmethod
    async def _finish(running: set[asyncio.Task[None]]) -> None:
        """Wait for these tasks, also when this one is being stopped; raises what one of them raised."""
        if not running:
            return
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError:
            await _Ingest._stop(running)
            raise
        results = await asyncio.gather(*running, return_exceptions=True)
        for error in results:
            if isinstance(error, BaseException):
                raise error

    @staticmethod
    async def _stop(running: set[asyncio.Task[None]]) -> None:
        """Give these tasks a while to end, and then cancel them."""
        try:
            if running:
                await asyncio.wait(running, timeout=_STOP_SECONDS)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _keep(self, vectors: Mapping[str, Vector]) -> None:
        """Keep embeddings until their chunks are stored."""
        if self._embedder is None or not vectors:
            return
        rows = [{"digest": key, "model": self._embedder.model, "embedding": vector} for key, vector in vectors.items()]
        async with self._engine.connect() as connection:
            if connection.dialect.name == "postgresql":
                columns = {f"{name}s": [row[name] for row in rows] for name in ("digest", "embedding")}
                await connection.execute(_KEEP_MANY, {"model": self._embedder.model, **columns})
            else:
                await connection.execute(_KEEP, rows)
            await connection.commit()

    def _is_changed(self, row: _Stored, chunk: Chunk, paid: Mapping[str, int]) -> bool:
        now = (chunk.source, chunk.position, chunk.page, self._locale, self._origin(chunk))
        return row.digest in paid or (row.source, row.position, row.page, row.locale, row.origin) != now

    def _origin(self, chunk: Chunk) -> dict[str, str] | None:
        """Return what is noted of where the chunk's page came from; the page's first chunk has it."""
        origin = self._book.origins.get(chunk.page) if chunk.position == 0 else None
        return dict(origin) if origin else None

    async def _update(
        self, connection: AsyncConnection, rows: Sequence[tuple[_Stored, Chunk]], paid: Mapping[str, int]
    ) -> None:
        vectors = await self._vectors(connection, [row.digest for row, _ in rows if row.digest in paid])
        places = [
            {
                "key": row.id,
                "new_source": chunk.source,
                "new_position": chunk.position,
                "new_page": comparable(chunk.page),
                "new_meta": self._meta(row.digest, chunk, paid) if row.digest in paid else self._meta_as_in(row, chunk),
            }
            for row, chunk in rows
        ]
        await connection.execute(_MOVE, places)
        if vectors:
            embedded = [(row.id, unpacked(vectors[row.digest])) for row, _ in rows if row.digest in vectors]
            await connection.execute(
                _EMBED, [{"key": key, "new_embedding": padded(vector)} for key, vector in embedded]
            )
        await index_words(
            connection, [self._document(row.id, row.digest, chunk) for row, chunk in rows if row.locale != self._locale]
        )

    async def _insert(
        self,
        connection: AsyncConnection,
        writer: RowWriter,
        chunks: Sequence[tuple[str, Chunk]],
        paid: Mapping[str, int],
    ) -> None:
        vectors = await self._vectors(connection, [key for key, _ in chunks if key in paid])
        documents = [self._document(uuid.uuid4(), key, chunk, paid) for key, chunk in chunks]
        await writer.write(documents, [vectors.get(key) for key, _ in chunks])
        await index_words(connection, documents, are_new=True)

    async def _vectors(self, connection: AsyncConnection, digests: Sequence[str]) -> dict[str, Packed]:
        """Return the embeddings that are paid for."""
        if self._embedder is None or not digests:
            return {}
        found = await connection.execute(_paid_for(self._embedder.model, digests))
        return {row.digest: row.embedding for row in found}

    def _document(self, key: uuid.UUID, of: str, chunk: Chunk, paid: Mapping[str, int] | None = None) -> Document:
        return Document(
            id=key,
            source=chunk.source,
            title=chunk.title,
            position=chunk.position,
            content=chunk.text,
            book_id=self._id,
            page=comparable(chunk.page),
            meta=self._meta(of, chunk, paid or {}),
        )

    def _meta(self, key: str, chunk: Chunk, paid: Mapping[str, int]) -> dict[str, Any]:
        meta: dict[str, Any] = {"book": self._book.url, "page": chunk.page, "locale": self._locale, "digest": key}
        if origin := self._origin(chunk):
            meta["origin"] = origin
        if self._embedder and key in paid:
            meta |= {"model": self._embedder.model, "dimensions": paid[key]}
        return meta

    def _meta_as_in(self, row: _Stored, chunk: Chunk) -> dict[str, Any]:
        meta = self._meta(row.digest, chunk, {})
        return meta if row.model is None else {**meta, "model": row.model, "dimensions": row.dimensions}

    def _note(self, plan: _Plan, paid: Mapping[str, int]) -> None:
        report = self._report
        report.new, report.unchanged, report.deleted = len(plan.new), len(plan.kept), len(plan.vanished)
        kept_without = [row for row, _ in plan.kept if row.model is None and row.digest not in paid]
        report.without_embedding = len(kept_without) + sum(key not in paid for key, _ in plan.new)
        report.replaced = Counter(
            (row.model, row.dimensions) for row, _ in plan.kept if row.model is not None and row.digest in paid
        )


def _plan(chunks: Sequence[tuple[str, Chunk]], rows: Sequence[_Stored]) -> _Plan:
    """Find each chunk's row by its text: one with the same address, or else one whose chunk has moved."""
    plan = _Plan()
    unused: dict[tuple[str, str], list[_Stored]] = defaultdict(list)
    for row in reversed(rows):
        unused[row.digest, row.source].append(row)
    moved = []
    for key, chunk in chunks:
        if here := unused[key, chunk.source]:
            plan.kept.append((here.pop(), chunk))
        else:
            moved.append((key, chunk))
    elsewhere: dict[str, list[_Stored]] = defaultdict(list)
    for (key, _), left in unused.items():
        elsewhere[key] += left
    for key, chunk in moved:
        if elsewhere[key]:
            plan.kept.append((elsewhere[key].pop(), chunk))
        else:
            plan.new.append((key, chunk))
    plan.vanished = [row.id for left in elsewhere.values() for row in left]
    return plan


def _most_common(counts: Counter[int]) -> int | None:
    return counts.most_common(1)[0][0] if counts else None


def _in_meta(name: str) -> ColumnElement[str]:
    text: ColumnElement[str] = col(Document.meta)[name].as_string()
    return text


def _rows_of(book: uuid.UUID) -> Select[*tuple[Any, ...]]:
    return select(
        col(Document.id), col(Document.source), col(Document.position), col(Document.meta).label("meta")
    ).where(col(Document.book_id) == book)


def _stored(row: Row[Any]) -> _Stored:
    # JSON is read once here, and not once for each of its fields in the database.
    meta = row.meta
    known = {name: meta.get(name) for name in ("page", "locale", "model", "origin")}
    digest, dimensions = meta.get("digest") or "", meta.get("dimensions") or 0
    return _Stored(row.id, row.source, row.position, digest, dimensions=dimensions, **known)


def _chunks_of(book: uuid.UUID) -> Select[Any]:
    return (
        select(
            col(Document.source),
            col(Document.title),
            col(Document.position),
            col(Document.content),
            _in_meta("page").label("page"),
            col(Document.meta)["origin"].label("origin"),
        )
        .where(col(Document.book_id) == book)
        .order_by(_in_meta("page"), col(Document.position))
    )


def _others_than(book: uuid.UUID) -> Select[Any]:
    other = col(StoredBook.id) != book
    return select(col(StoredBook.address), col(StoredBook.embeddings)).where(other).order_by(col(StoredBook.address))


def _sizes(model: str) -> Select[str, int]:
    size = func.length(col(PaidEmbedding.embedding), type_=Integer).label("bytes")
    return select(col(PaidEmbedding.digest), size).where(col(PaidEmbedding.model) == model)


def _paid_for(model: str, digests: Sequence[str]) -> Select[str, bytes]:
    packed = type_coerce(col(PaidEmbedding.embedding), LargeBinary()).label("embedding")
    return select(col(PaidEmbedding.digest), packed).where(
        col(PaidEmbedding.model) == model, col(PaidEmbedding.digest).in_(digests)
    )


def _embedded(model: str, book: uuid.UUID, *, is_sqlite: bool) -> Select[*tuple[Any, ...]]:
    if is_sqlite:
        wanted = select(func.json_each(bindparam("wanted")).table_valued("value").c.value)
    else:
        wanted = select(func.unnest(bindparam("wanted", type_=ARRAY(Text))))
    digest = _in_meta("digest")
    return select(col(Document.id), digest.label("digest")).where(
        digest.in_(wanted),
        _in_meta("model") == model,
        col(Document.book_id) != book,
        col(Document.embedding).is_not(None),
    )


def _embeddings_of(ids: Sequence[uuid.UUID], model: str) -> Select[Any]:
    return select(
        _in_meta("digest").label("digest"),
        col(Document.meta)["dimensions"].as_integer().label("dimensions"),
        col(Document.embedding).label("embedding"),
    ).where(col(Document.id).in_(ids), _in_meta("model") == model, col(Document.embedding).is_not(None))


_REVISION = text(f"SELECT max(version_num) FROM {VERSION_TABLE}")  # noqa: S608  # A constant.
_VECTOR_SCHEMA = text(
    "SELECT nspname FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid "
    "JOIN pg_namespace ON pg_namespace.oid = typnamespace "
    "WHERE attrelid = 'documents'::regclass AND attname = 'embedding' AND typname = 'vector'"
)
_KEEP = text("""
    INSERT INTO embeddings (digest, model, embedding) VALUES (:digest, :model, :embedding)
    ON CONFLICT (digest, model) DO UPDATE SET embedding = excluded.embedding
""").bindparams(bindparam("embedding", type_=PackedVector()))
_KEEP_MANY = text("""
    INSERT INTO embeddings (digest, model, embedding)
    SELECT digest, :model, embedding FROM unnest(:digests, :embeddings) AS given (digest, embedding)
    ON CONFLICT (digest, model) DO UPDATE SET embedding = excluded.embedding
""").bindparams(
    bindparam("digests", type_=ARRAY(Text)), bindparam("embeddings", type_=ARRAY(PackedVector(), dimensions=1))
)
_ROW = col(Document.id) == bindparam("key", type_=Uuid())
_MOVE = (
    update(Document)
    .where(_ROW)
    .values(
        {
            "source": bindparam("new_source"),
            "position": bindparam("new_position"),
            "page": bindparam("new_page"),
            "meta": bindparam("new_meta"),
        }
    )
)
_EMBED = update(Document).where(_ROW).values(embedding=bindparam("new_embedding"))
