"""Make what the search needs: the words of each chunk, and embeddings that SQLite reads quickly."""

import json
import struct
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Make the tables, and pack SQLite's embeddings."""
    op.create_table(
        "embeddings",
        sa.Column("digest", sa.Text(), primary_key=True),
        sa.Column("model", sa.Text(), primary_key=True),
        sa.Column("embedding", sa.LargeBinary(), nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        _change_embeddings(sa.JSON(), sa.LargeBinary(), _packed)
        op.execute(
            "CREATE VIRTUAL TABLE document_words "
            "USING fts5(id UNINDEXED, title, content, tokenize = 'porter unicode61 remove_diacritics 2')"
        )
    else:
        op.create_table(
            "document_words",
            sa.Column("id", sa.Uuid(), sa.ForeignKey("documents.id", ondelete="CASCADE"), primary_key=True),
            sa.Column("words", postgresql.TSVECTOR(), nullable=False),
            sa.Column("length", sa.Integer(), nullable=False),
        )
        op.create_index("ix_document_words_words", "document_words", ["words"], postgresql_using="gin")
        # Unpacking the words of every candidate would take most of a search.
        op.execute("ALTER TABLE document_words ALTER COLUMN words SET STORAGE EXTERNAL")
        op.execute("ALTER TABLE document_words SET (toast_tuple_target = 8160)")


def downgrade() -> None:
    """Drop the tables, and unpack SQLite's embeddings."""
    op.drop_table("document_words")
    if op.get_bind().dialect.name == "sqlite":
        _change_embeddings(sa.LargeBinary(), sa.JSON(), _unpacked)
    op.drop_table("embeddings")


def _change_embeddings(
    before: sa.types.TypeEngine[Any], after: sa.types.TypeEngine[Any], convert: Callable[..., object]
) -> None:
    connection = op.get_bind()
    rows = connection.execute(sa.text("SELECT id, embedding FROM documents WHERE embedding IS NOT NULL")).all()
    with op.batch_alter_table("documents") as documents:
        documents.alter_column("embedding", existing_type=before, type_=after)
    # Alembic copies the values with a cast, which would spoil those of the one type or of the other.
    statement = sa.text("UPDATE documents SET embedding = :embedding WHERE id = :id")
    for row in rows:
        connection.execute(statement, {"id": row.id, "embedding": convert(row.embedding)})


def _packed(text: str) -> bytes:
    values = json.loads(text)
    return struct.pack(f"<{len(values)}f", *values)


def _unpacked(data: bytes) -> str:
    return json.dumps(struct.unpack(f"<{len(data) // 4}f", data))
