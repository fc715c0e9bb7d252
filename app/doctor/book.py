"""The book: whether there is one, whether its website may ask, and whether questions can be compared with it."""

import asyncio
import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from app.config import Settings, SettingsError
from app.database import Database
from app.doctor.findings import CHECK_SECONDS, Finding
from app.errors import DatabaseError
from app.models import EMBEDDING_DIMENSIONS
from app.pause import read_pause


async def examine_book(database: Database, settings: Settings) -> list[Finding]:
    """Return what is found of the book, and of a pause; tables that are missing were reported before."""
    findings = []
    try:
        if pause := await read_pause(database):
            since = f"{pause.began_at:%Y-%m-%d %H:%M} UTC"
            said = f"Questions are refused since {since}. To go on: python -m app.admin resume"
            findings.append(Finding("advice", "pause", said))
    except DatabaseError:
        pass  # The tables were looked at before.
    if find_spec("app.book") is None:  # The folder can be taken away.
        return findings
    from app.book.shelf import Shelf, known_books  # noqa: PLC0415

    try:
        shelf = Shelf(await database.execute((known_books(is_sqlite=database.dsn.sqlite), {})))
    except DatabaseError:
        return findings
    if not shelf.chunks:
        said = "There is no book, so the model answers from what it knows. To read one in: python -m app.book ingest"
        return [*findings, Finding("advice", "book", said)]
    findings += [
        Finding("ok", "book", f"{row.address} has {row.pages:,} pages, {row.chunks:,} chunks.") for row in shelf.rows
    ]
    findings += _origins([row.address for row in shelf.rows], settings)
    if settings.openai_api_key:
        findings.append(await _meaning(shelf, database, settings))
    return findings


def _origins(addresses: Iterable[str], settings: Settings) -> Iterator[Finding]:
    """Yield a fault for each website of a book whose pages may not ask."""
    places = {urlsplit(address)[:2] for address in addresses}
    for scheme, host in sorted(places):
        origin = f"{scheme}://{host}"
        matches = settings.cors_origin_regex and re.fullmatch(settings.cors_origin_regex, origin)
        if scheme in {"http", "https"} and not matches and not {"*", origin} & {*settings.cors_origins}:
            said = f"The book is at {origin}, whose pages may not ask. Add it to CORS_ORIGINS."
            yield Finding("advice" if settings.development else "FAULT", "websites", said)


async def _meaning(shelf: Any, database: Database, settings: Settings) -> Finding:
    """Return whether questions can be compared with the book by their meaning; without it, words alone decide."""
    from app.book.embeddings import Embedder, EmbeddingError  # noqa: PLC0415

    embedder, by_words = Embedder(settings), "so the book is searched by words alone"
    model, known = embedder.model, shelf.dimensions(embedder.model)
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            [vector] = await embedder.embed(["What is a robot?"])
    except (EmbeddingError, SettingsError, TimeoutError) as error:
        kind = error.kind if isinstance(error, EmbeddingError) else type(error).__name__
        said = f"{model} gives no embeddings of at most {EMBEDDING_DIMENSIONS} dimensions ({kind}), {by_words}."
        return Finding("advice", "embeddings", f"{said} Set OPENAI_EMBEDDING_MODEL to one that the server has.")
    finally:
        await embedder.close()
    if known is None:
        others = ", ".join(sorted({name for name, _ in shelf.embeddings})) or "no model"
        again = "Read it in again, or set OPENAI_EMBEDDING_MODEL."
        return Finding(
            "advice", "embeddings", f"The book has embeddings of {others}, not of {model}, {by_words}. {again}"
        )
    if known != len(vector):
        said = f"{model} gives {len(vector)} dimensions, and the book's embeddings have {known}, {by_words}."
        return Finding("advice", "embeddings", f"{said} Read the book in again.")
    if not database.dsn.sqlite and not shelf.vector_schema:
        said = f"documents.embedding is real[], {by_words}. Install pgvector, and run:"
        run = f"ALTER TABLE documents ALTER COLUMN embedding TYPE vector({EMBEDDING_DIMENSIONS});"
        return Finding("advice", "embeddings", f"{said} {run}")
    return Finding("ok", "embeddings", f"{model} gives {known} dimensions, as the book has them.")
