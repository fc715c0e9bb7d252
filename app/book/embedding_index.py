"""The index of embeddings for PostgreSQL: a library gets it once it is too large for all of them to be compared."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.book.shelf import EMBEDDING_INDEX, version_of
from app.database import FAILURES, MIGRATION_LOCK, reason
from app.models import EMBEDDING_DIMENSIONS

EXACT_CHUNKS = 10_000
"""So many chunks are compared exactly, which is fast enough and misses none; of more, the index finds the nearest."""

_HALFVEC_VERSION = (0, 7)
"""The first version of pgvector that can index half-precision numbers: vectors of two bytes a dimension instead of four."""

# Migrations hold it too: they make this index for a library that was large before.
_LOCK = text("SELECT pg_try_advisory_xact_lock(:lock)")
# An index is built as soon as no snapshot is left, and a query keeps its own until the next statement.
_STAY = text("SET LOCAL idle_in_transaction_session_timeout = 0")

_STATE = text("""
    SELECT quote_ident(nspname) AS schema, extversion AS version,
           (SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)) AS is_valid,
           (SELECT sum(CAST(found ->> 'chunks' AS int)) FROM books, json_array_elements(embeddings) AS found) AS embeddings
    FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid JOIN pg_namespace ON pg_namespace.oid = typnamespace
         JOIN pg_extension ON extname = 'vector'
    WHERE attrelid = 'documents'::regclass AND attname = 'embedding' AND typname = 'vector'
""")


@dataclass(frozen=True)
class Indexing:
    """What became of the index."""

    made: int = 0
    """How many embeddings it was made of; none if it was there, or is not needed."""
    failure: str | None = None
    """Why it could not be made; all embeddings are compared until it is."""


async def index_embeddings(engine: AsyncEngine, *, exact_chunks: int = EXACT_CHUNKS) -> Indexing:
    """Make the index if there are more embeddings than that, also in place of one whose making was interrupted.

    It is made beside the readers, outside of a transaction. Of several processes one makes it: a second connection holds the lock,
    since a pooler can give each transaction of one connection another session.
    """
    try:
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            if await _state(connection, exact_chunks) is None:
                return Indexing()
            async with engine.connect() as holding:
                if not await holding.scalar(_LOCK, {"lock": MIGRATION_LOCK}):
                    return Indexing()
                await holding.execute(_STAY)
                return await _index(connection, exact_chunks)
    except FAILURES as error:
        return Indexing(failure=reason(error))


async def _state(connection: AsyncConnection, exact_chunks: int) -> Row[Any] | None:
    """Return what there is, None if the index need not be made."""
    state = (await connection.execute(_STATE, {"name": EMBEDDING_INDEX})).first()
    return None if state is None or state.is_valid or (state.embeddings or 0) <= exact_chunks else state


async def _index(connection: AsyncConnection, exact_chunks: int) -> Indexing:
    state = await _state(connection, exact_chunks)
    if state is None:
        return Indexing()
    if version_of(state.version) < _HALFVEC_VERSION:
        return Indexing(failure=f"pgvector {state.version} cannot index embeddings, 0.7 can")
    if state.is_valid is False:
        await connection.execute(text(f"DROP INDEX CONCURRENTLY {EMBEDDING_INDEX}"))
    column = f"(CAST(embedding AS {state.schema}.halfvec({EMBEDDING_DIMENSIONS}))) {state.schema}.halfvec_cosine_ops"
    await connection.execute(text(f"CREATE INDEX CONCURRENTLY {EMBEDDING_INDEX} ON documents USING hnsw ({column})"))
    return Indexing(made=state.embeddings)
