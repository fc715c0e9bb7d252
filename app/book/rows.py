"""The rows of chunks, written many at a time: by COPY where PostgreSQL takes it, by inserts of many rows otherwise."""

import json
import struct
from array import array
from collections.abc import Sequence

import asyncpg
from sqlalchemy import LargeBinary, bindparam, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.book.embeddings import padded
from app.models import EMBEDDING_DIMENSIONS, Document

_COLUMNS = ("id", "source", "title", "position", "content", "created_at", "book_id", "page")
_META = "metadata"
_EMBEDDING = "embedding"

# On SQLite a packed vector is stored as it is.
_INSERT_PACKED = insert(Document).values({_EMBEDDING: bindparam(_EMBEDDING, type_=LargeBinary())})
_NOT_COPIED = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

type Packed = bytes
"""A vector as its 32-bit floats, little end first, as many as the model gives."""


class RowWriter:
    """Writes the rows of new chunks within a transaction."""

    def __init__(self, connection: AsyncConnection, *, vector_schema: str | None) -> None:
        self._connection = connection
        self._vector_schema = vector_schema
        """Where pgvector is, if embeddings are of its type."""
        self._copies = connection.dialect.name == "postgresql"
        self._knows_vectors = False

    async def write(self, documents: Sequence[Document], embeddings: Sequence[Packed | None]) -> None:
        """Store the chunks, each with its embedding if it has one."""
        if self._copies:
            try:
                async with self._connection.begin_nested():
                    await self._copy(documents, embeddings)
            except _NOT_COPIED:
                # Row-level security forbids COPY, and so do some proxies. If something else is wrong, the insert says so.
                self._copies = False
            else:
                return
        await self._insert(documents, embeddings)

    async def _copy(self, documents: Sequence[Document], embeddings: Sequence[Packed | None]) -> None:
        connection = (await self._connection.get_raw_connection()).driver_connection
        if connection is None:
            raise asyncpg.InterfaceError("there is no connection")
        columns = [*_COLUMNS, _META]
        rows = [(*(getattr(document, name) for name in _COLUMNS), json.dumps(document.meta)) for document in documents]
        if any(embeddings):
            if not self._knows_vectors:
                await connection.set_type_codec(
                    "vector", schema=self._vector_schema, encoder=_as_vector, decoder=bytes, format="binary"
                )
                self._knows_vectors = True
            columns.append(_EMBEDDING)
            rows = [(*row, packed) for row, packed in zip(rows, embeddings, strict=True)]
        await connection.copy_records_to_table(Document.__tablename__, records=rows, columns=columns)

    async def _insert(self, documents: Sequence[Document], embeddings: Sequence[Packed | None]) -> None:
        is_packed = self._connection.dialect.name == "sqlite"
        rows = [
            {
                **{name: getattr(document, name) for name in _COLUMNS},
                _META: document.meta,
                _EMBEDDING: packed and (_padded(packed) if is_packed else padded(unpacked(packed))),
            }
            for document, packed in zip(documents, embeddings, strict=True)
        ]
        await self._connection.execute(_INSERT_PACKED if is_packed else insert(Document), rows)


def unpacked(packed: Packed) -> list[float]:
    """Return the numbers of a vector."""
    return list(struct.unpack(f"<{len(packed) // 4}f", packed))


def _padded(packed: Packed) -> bytes:
    return packed.ljust(4 * EMBEDDING_DIMENSIONS, b"\0")


def _as_vector(packed: Packed) -> bytes:
    """Return the vector as pgvector sends and receives it: its dimensions, and its floats with the big end first."""
    floats = array("f", _padded(packed))
    floats.byteswap()
    return struct.pack(">HH", EMBEDDING_DIMENSIONS, 0) + floats.tobytes()
