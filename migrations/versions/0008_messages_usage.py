"""Keep with each answer which model gave it, and what it took, and find questions by their time."""

import sqlalchemy as sa
from alembic import op

from migrations.online import add_columns, create_index

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | None = None
depends_on: str | None = None

_COUNTS = ("prompt_tokens", "completion_tokens", "duration_ms", "retrieved", "cited")


def upgrade() -> None:
    """Add the columns."""
    counts = [sa.Column(name, sa.Integer()) for name in _COUNTS]
    add_columns("messages", sa.Column("model", sa.Text()), *counts)
    is_question = sa.text("role = 'user'")
    create_index(
        "ix_messages_questions",
        "messages",
        ["created_at", "id"],
        postgresql_where=is_question,
        sqlite_where=is_question,
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_index("ix_messages_questions", "messages")
    with op.batch_alter_table("messages") as messages:
        for name in ("model", *_COUNTS):
            messages.drop_column(name)
