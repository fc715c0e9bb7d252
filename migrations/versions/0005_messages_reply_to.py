"""Let messages say which question they answer, in databases that got revision 0003 before it did so."""

import sqlalchemy as sa

from migrations.online import add_columns, create_foreign_key, create_index

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Add the column, its foreign key and its index as far as they are missing."""
    add_columns("messages", sa.Column("reply_to", sa.Uuid()))
    create_foreign_key("messages_reply_to_fkey", "messages", "reply_to", "messages", ondelete="CASCADE")
    create_index("ix_messages_reply_to", "messages", ["reply_to"])


def downgrade() -> None:
    """Leave the column to the downgrade of revision 0003, which drops it."""
