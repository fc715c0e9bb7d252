"""The books of a database: which there are, what is known of each, and which of them a page belongs to."""

import re
import unicodedata
import uuid
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any
from urllib.parse import unquote, urlsplit

from sqlalchemy import Label, Row, Select, literal_column, select
from sqlmodel import col

from app.book.words import configuration
from app.models import StoredBook

SEPARATOR = " \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} "
"""Between the headings of a path of headings, the outermost of which comes first."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_INDEX = "/index.html"

EMBEDDING_INDEX = "ix_documents_embedding"
"""The index of embeddings on PostgreSQL, which a library has once it is large."""

# Where pgvector is, if it can compare the embeddings.
_VECTOR_SCHEMA = """(
    SELECT quote_ident(nspname)
    FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid JOIN pg_namespace ON pg_namespace.oid = typnamespace
    WHERE attrelid = 'documents'::regclass AND attname = 'embedding' AND typname = 'vector'
)"""
_VECTOR_VERSION = "(SELECT extversion FROM pg_extension WHERE extname = 'vector')"
_HAS_INDEX = f"""EXISTS (
    SELECT FROM pg_index WHERE indexrelid = to_regclass('{EMBEDDING_INDEX}') AND indisvalid
)"""  # A constant.


def version_of(text: str | None) -> tuple[int, ...]:
    """Return a version as numbers, such as (0, 8, 1); without one, it is before every other."""
    return tuple(int(number) for number in re.findall(r"\d+", text or ""))


def known_books(*, is_sqlite: bool) -> Select[*tuple[Any, ...]]:
    """Return the statement for what `Shelf` has to know."""
    of_vectors = {"vector_schema": _VECTOR_SCHEMA, "vector_version": _VECTOR_VERSION, "has_index": _HAS_INDEX}
    columns: list[Label[Any]] = [
        literal_column("NULL" if is_sqlite else sql).label(name) for name, sql in of_vectors.items()
    ]
    return select(StoredBook, *columns).order_by(col(StoredBook.address))


def book_id(address: str) -> uuid.UUID:
    """Return the id of the book with this address."""
    return uuid.uuid5(uuid.NAMESPACE_URL, address)


def comparable(url: str) -> str:
    """Return an address as addresses are compared: host and path, however they are written.

    Scheme, query and fragment do not name a page, nor does a slash or `index.html` at the end.
    """
    try:
        parts = urlsplit(url.strip())
        port = "" if parts.port in {None, _DEFAULT_PORTS.get(parts.scheme.lower())} else f":{parts.port}"
    except ValueError:
        return url
    path = unicodedata.normalize("NFC", unquote(parts.path))
    return f"{(parts.hostname or '').rstrip('.')}{port}{path.removesuffix(_INDEX).rstrip('/')}"


class Shelf:
    """What is known of the books in the database, or of one of them; as long as the rows are the same, so are the books."""

    def __init__(self, rows: Sequence[Row[Any]] = (), *, book: Row[Any] | None = None) -> None:
        self.rows = rows
        self.book = book
        """The book if it is one of them, None if it is all."""
        self.single = rows[0] if len(rows) == 1 else None
        """The book if there is only one."""
        self.chunks: int = sum(row.chunks for row in rows)
        self.average_length: float = max(1.0, sum(row.words for row in rows) / max(1, self.chunks))
        """How many words a chunk has."""
        self.configurations = sorted({configuration(row.locale) for row in rows})
        """PostgreSQL's text search configurations for its languages."""
        self.vector_schema: str | None = rows[0].vector_schema if rows else None
        """Where pgvector is, if it can compare the embeddings."""
        self.vector_version = version_of(rows[0].vector_version if rows else None)
        self.has_index = bool(rows and rows[0].has_index)
        """Whether the embeddings of all books have an index, on PostgreSQL."""
        self.is_counted = all(row.counted_at == row.read_at for row in rows)
        """Whether it is kept in how many chunks each word is; a release before revision 0014 does not count a book that it reads in."""
        self.embeddings = Counter[tuple[str, int]]()
        """How many embeddings there are of each model and number of dimensions."""
        for row in rows:
            for found in row.embeddings:
                self.embeddings[found["model"], found["dimensions"]] += found["chunks"]

    def dimensions(self, model: str) -> int | None:
        """Return how many dimensions the embeddings of the model have, None if there are none."""
        return next((size for (name, size), _ in self.embeddings.most_common() if name == model), None)

    def of(self, page_url: str | None) -> "Shelf":
        """Return what is known of the book that the page belongs to, or of all books if it belongs to none.

        It is the one with the longest address that the page's address begins with: a book can stand below another, as a version does.
        """
        if page_url is None:
            return self
        page = comparable(page_url)
        return next((shelf for key, shelf in self._one_by_one if page == key or page.startswith(f"{key}/")), self)

    @cached_property
    def _one_by_one(self) -> list[tuple[str, "Shelf"]]:
        """The books, each alone, the longest address first."""
        shelves = [(comparable(row.address), Shelf([row], book=row)) for row in self.rows]
        return sorted(shelves, key=lambda pair: -len(pair[0]))
