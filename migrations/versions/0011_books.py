"""Keep a row for each book and each of its pages, and with each chunk which ones it is of."""

import json
import unicodedata
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa
from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | None = None
depends_on: str | None = None

_SEPARATOR = " \N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK} "
_MAX_HEADINGS = 100

_books = sa.table(
    "books",
    sa.column("id", sa.Uuid()),
    sa.column("address", sa.Text()),
    sa.column("locale", sa.Text()),
    sa.column("pages", sa.Integer()),
    sa.column("chunks", sa.Integer()),
    sa.column("words", sa.Integer()),
    sa.column("embeddings", sa.JSON()),
    sa.column("read_at", sa.DateTime(timezone=True)),
)
_pages = sa.table(
    "book_pages",
    sa.column("book_id", sa.Uuid()),
    sa.column("page", sa.Text()),
    sa.column("number", sa.Integer()),
    sa.column("address", sa.Text()),
    sa.column("title", sa.Text()),
    sa.column("part", sa.Text()),
    sa.column("headings", sa.JSON()),
)
_documents = sa.table(
    "documents",
    sa.column("id", sa.Uuid()),
    sa.column("title", sa.Text()),
    sa.column("position", sa.Integer()),
    sa.column("embedding"),
    sa.column("metadata", sa.JSON()),
    sa.column("created_at", sa.DateTime(timezone=True)),
    sa.column("book_id", sa.Uuid()),
    sa.column("page", sa.Text()),
)
_meta = _documents.c.metadata


def upgrade() -> None:
    """Make the tables and the columns, and fill them from the chunks that there are."""
    op.create_table(
        "books",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("address", sa.Text(), nullable=False, unique=True),
        sa.Column("title", sa.Text()),
        sa.Column("locale", sa.Text()),
        sa.Column("pages", sa.Integer(), nullable=False),
        sa.Column("chunks", sa.Integer(), nullable=False),
        sa.Column("words", sa.Integer(), nullable=False),
        sa.Column("embeddings", sa.JSON(), nullable=False),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "book_pages",
        sa.Column("book_id", sa.Uuid(), sa.ForeignKey("books.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("page", sa.Text(), primary_key=True),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("part", sa.Text()),
        sa.Column("headings", sa.JSON(), nullable=False),
    )
    with op.batch_alter_table("documents") as documents:
        documents.add_column(sa.Column("book_id", sa.Uuid()))
        documents.add_column(sa.Column("page", sa.Text()))
        documents.create_foreign_key("documents_book_id_fkey", "books", ["book_id"], ["id"], ondelete="CASCADE")
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    if is_postgresql:
        op.add_column("document_words", sa.Column("book_id", sa.Uuid()))
    for address in _addresses():
        _insert_book(address, is_postgresql=is_postgresql)
    op.create_index("ix_documents_book_id_page", "documents", ["book_id", "page"])
    if is_postgresql:
        op.create_index("ix_document_words_book_id", "document_words", ["book_id"])


def downgrade() -> None:
    """Drop them."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_index("ix_document_words_book_id", "document_words")
        op.drop_column("document_words", "book_id")
    op.drop_index("ix_documents_book_id_page", "documents")
    with op.batch_alter_table("documents") as documents:
        documents.drop_constraint("documents_book_id_fkey", type_="foreignkey")
        documents.drop_column("page")
        documents.drop_column("book_id")
    op.drop_table("book_pages")
    op.drop_table("books")


def _addresses() -> Sequence[str]:
    address = _meta["book"].as_string()
    return op.get_bind().scalars(sa.select(address).where(address.is_not(None)).distinct()).all()


def _insert_book(address: str, *, is_postgresql: bool) -> None:
    connection = op.get_bind()
    key = uuid.uuid5(uuid.NAMESPACE_URL, address)
    of_book = _meta["book"].as_string() == address
    connection.execute(
        _books.insert().values(
            id=key, address=address, pages=0, chunks=0, words=0, embeddings=[], read_at=datetime.now(UTC)
        )
    )
    chunks = connection.execute(
        sa.select(
            _meta["page"].as_string().label("page"),
            _meta["locale"].as_string().label("locale"),
            _documents.c.title,
            _documents.c.created_at,
        )
        .where(of_book, _meta["page"].as_string().is_not(None))
        .order_by(_documents.c.position)
    ).all()
    pages = _pages_of(address, chunks)
    if pages:
        connection.execute(_pages.insert(), [{"book_id": key, **page} for page in pages])
    _mark_chunks(key, address, {chunk.page: _comparable(chunk.page) for chunk in chunks})
    words = 0
    if is_postgresql:
        connection.execute(
            sa.text(
                "UPDATE document_words w SET book_id = d.book_id FROM documents d WHERE d.id = w.id AND d.book_id = :key"
            ),
            {"key": key},
        )
        counted = sa.text("SELECT coalesce(sum(length), 0) FROM document_words WHERE book_id = :key")
        words = connection.scalar(counted, {"key": key}) or 0
    connection.execute(
        _books.update()
        .where(_books.c.id == key)
        .values(
            locale=next((chunk.locale for chunk in chunks), None),
            pages=len(pages),
            chunks=connection.scalar(sa.select(sa.func.count()).where(_documents.c.book_id == key)),
            words=words,
            embeddings=_embeddings(key),
            read_at=max((chunk.created_at for chunk in chunks), default=datetime.now(UTC)),
        )
    )


def _mark_chunks(key: uuid.UUID, address: str, pages: dict[str, str]) -> None:
    """Give the book's chunks their book and their page, in one statement however many pages there are."""
    given = (
        "json_each_text(CAST(:pages AS json))" if op.get_bind().dialect.name == "postgresql" else "json_each(:pages)"
    )
    statement = sa.text(f"""
        WITH given AS MATERIALIZED (SELECT key, value FROM {given})
        UPDATE documents SET book_id = :key, page = given.value
        FROM given
        WHERE {_meta_sql("book")} = :address AND {_meta_sql("page")} = given.key
    """).bindparams(sa.bindparam("key", type_=sa.Uuid()))  # noqa: S608  # Constants.
    op.get_bind().execute(statement, {"key": key, "address": address, "pages": json.dumps(pages)})


def _meta_sql(name: str) -> str:
    if op.get_bind().dialect.name == "postgresql":
        return f"documents.metadata ->> '{name}'"
    return f"json_extract(documents.metadata, '$.{name}')"


def _embeddings(key: uuid.UUID) -> list[dict[str, Any]]:
    model, dimensions = _meta["model"].as_string(), _meta["dimensions"].as_integer()
    found = op.get_bind().execute(
        sa.select(model, dimensions, sa.func.count())
        .where(_documents.c.book_id == key, _documents.c.embedding.is_not(None), model.is_not(None))
        .group_by(model, dimensions)
        .order_by(model, dimensions)
    )
    return [{"model": name, "dimensions": size, "chunks": count} for name, size, count in found]


def _pages_of(address: str, chunks: Iterable[sa.Row[Any]]) -> list[dict[str, Any]]:
    """Return the pages in the order in which they were first stored, which is that of the folder."""
    root = _comparable(address)
    by_page: dict[str, list[sa.Row[Any]]] = defaultdict(list)
    for chunk in chunks:
        by_page[_comparable(chunk.page)].append(chunk)
    in_order = sorted(by_page, key=lambda page: min(chunk.created_at for chunk in by_page[page]))
    titles = {page: by_page[page][0].title.split(_SEPARATOR)[0] for page in in_order}
    folders = {
        page: page.removeprefix(f"{root}/").partition("/")[0] for page in in_order if page.startswith(f"{root}/")
    }
    below = {folder for page, folder in folders.items() if page != f"{root}/{folder}"}
    return [
        {
            "page": page,
            "number": number,
            "address": by_page[page][0].page,
            "title": titles[page],
            "part": titles.get(f"{root}/{folders[page]}") or _as_title(folders[page])
            if folders.get(page) in below
            else None,
            "headings": _headings(by_page[page]),
        }
        for number, page in enumerate(in_order)
    ]


def _headings(chunks: Iterable[sa.Row[Any]]) -> list[str]:
    paths = (chunk.title.partition(_SEPARATOR)[2] for chunk in chunks)
    return [*dict.fromkeys(path for path in paths if path)][:_MAX_HEADINGS]


def _as_title(folder: str) -> str:
    words = folder.replace("-", " ").replace("_", " ").strip()
    return words[:1].upper() + words[1:]


def _comparable(url: str) -> str:
    """Return a page's address as the service compares addresses."""
    try:
        parts = urlsplit(url.strip())
        port = "" if parts.port in {None, {"http": 80, "https": 443}.get(parts.scheme.lower())} else f":{parts.port}"
    except ValueError:
        return url
    path = unicodedata.normalize("NFC", unquote(parts.path))
    return f"{(parts.hostname or '').rstrip('.')}{port}{path.removesuffix('/index.html').rstrip('/')}"
