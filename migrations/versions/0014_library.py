"""Let a library be searched book by book: find the words of one book alone, and keep in how many chunks each of them is."""

import logging

import sqlalchemy as sa
from alembic import op
from sqlalchemy.exc import DBAPIError

from migrations.online import add_columns, create_index, drop_index

revision: str = "0014"
down_revision: str | None = "0013"
branch_labels: str | None = None
depends_on: str | None = None

logger = logging.getLogger("alembic.runtime.migration")

_EXACT_CHUNKS = 10_000

_BOOKS = sa.text("SELECT id, read_at FROM books WHERE counted_at IS DISTINCT FROM read_at ORDER BY id")
_COUNT_WORDS = sa.text("""
    INSERT INTO book_words (lexeme, book_id, chunks)
    SELECT word, :book, ndoc
    FROM ts_stat(format('SELECT words FROM document_words WHERE book_id = %L', CAST(:book AS uuid)))
    WHERE EXISTS (SELECT FROM books WHERE id = :book)
    ON CONFLICT (lexeme, book_id) DO UPDATE SET chunks = excluded.chunks
""").bindparams(sa.bindparam("book", type_=sa.Uuid()))
_FORGET_WORDS = sa.text("DELETE FROM book_words WHERE book_id = :book").bindparams(
    sa.bindparam("book", type_=sa.Uuid())
)
# A book that is read in meanwhile has other words, and another time.
_IS_COUNTED = sa.text("UPDATE books SET counted_at = :read_at WHERE id = :book AND read_at = :read_at").bindparams(
    sa.bindparam("book", type_=sa.Uuid()), sa.bindparam("read_at", type_=sa.DateTime(timezone=True))
)

_UUIDS_HAVE_GIN = sa.text("""
    SELECT EXISTS (
        SELECT FROM pg_opclass JOIN pg_am ON pg_am.oid = opcmethod
        WHERE amname = 'gin' AND opcdefault AND opcintype = 'uuid'::regtype
    )
""")

_VECTORS = sa.text("""
    SELECT quote_ident(nspname) AS schema, extversion AS version,
           (SELECT sum(CAST(found ->> 'chunks' AS int)) FROM books, json_array_elements(embeddings) AS found) AS embeddings
    FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid JOIN pg_namespace ON pg_namespace.oid = typnamespace
         JOIN pg_extension ON extname = 'vector'
    WHERE attrelid = 'documents'::regclass AND attname = 'embedding' AND typname = 'vector'
""")


def upgrade() -> None:
    """Make the table, count the words of one book after the other, and make the indexes beside the readers."""
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    # An extension can take its host long to install, and the columns would lock readers out for as long.
    has_btree_gin = not is_sqlite and _has_btree_gin()
    add_columns("books", sa.Column("counted_at", sa.DateTime(timezone=True)))
    if is_sqlite:
        return  # Its full-text search keeps its own counts.
    op.create_table(
        "book_words",
        sa.Column("lexeme", sa.Text(), nullable=False),
        sa.Column("book_id", sa.Uuid(), sa.ForeignKey("books.id", ondelete="CASCADE"), nullable=False),
        sa.Column("chunks", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("lexeme", "book_id", postgresql_include=["chunks"]),
        if_not_exists=True,
    )
    op.create_index("ix_book_words_book_id", "book_words", ["book_id"], if_not_exists=True)
    if has_btree_gin:
        create_index("ix_document_words_book_id_words", "document_words", ["book_id", "words"], postgresql_using="gin")
        drop_index("ix_document_words_words", "document_words")
    for book, read_at in op.get_bind().execute(_BOOKS).all():
        with op.get_context().autocommit_block():
            for statement in (_FORGET_WORDS, _COUNT_WORDS, _IS_COUNTED):
                op.get_bind().execute(statement, {"book": book, "read_at": read_at})
    _index_embeddings()


def downgrade() -> None:
    """Drop the table, and let words be found in all books alike."""
    if op.get_bind().dialect.name == "postgresql":
        drop_index("ix_documents_embedding", "documents")
        create_index("ix_document_words_words", "document_words", ["words"], postgresql_using="gin")
        drop_index("ix_document_words_book_id_words", "document_words")
        op.drop_table("book_words", if_exists=True)
    with op.batch_alter_table("books") as books:
        books.drop_column("counted_at")


def _has_btree_gin() -> bool:
    """Whether PostgreSQL can have an index of books and words together, for which it needs the extension btree_gin.

    A database that had the extension before version 1.3 keeps it as it was until it is updated.
    """
    for statement in (None, "CREATE EXTENSION IF NOT EXISTS btree_gin", "ALTER EXTENSION btree_gin UPDATE"):
        if statement:
            _try(statement)
        if op.get_bind().scalar(_UUIDS_HAVE_GIN):
            return True
    logger.warning(
        "btree_gin cannot be had here: words are looked up in all books, which takes longer if there are many"
    )
    return False


def _try(statement: str) -> None:
    try:
        with op.get_bind().begin_nested():
            op.get_bind().execute(sa.text(statement))
    except DBAPIError as error:  # Hosts refuse extensions with SQLSTATEs of their own.
        if error.connection_invalidated:
            raise


def _index_embeddings() -> None:
    """Index the embeddings if there are too many for all of them to be compared; later the command that reads books in does."""
    found = op.get_bind().execute(_VECTORS).first()
    if found is None or (found.embeddings or 0) <= _EXACT_CHUNKS:
        return
    if [int(number) for number in found.version.split(".")[:2]] < [0, 7]:
        logger.warning("pgvector %s cannot index embeddings, 0.7 can: all of them are compared", found.version)
        return
    halfvec = f"{found.schema}.halfvec"
    column = sa.text(f"(CAST(embedding AS {halfvec}(1536))) {halfvec}_cosine_ops")
    create_index("ix_documents_embedding", "documents", [column], postgresql_using="hnsw")
