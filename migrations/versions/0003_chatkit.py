"""Keep what ChatKit shows, and which question an answer is to."""

import sqlalchemy as sa
from alembic import op

from migrations.online import add_columns, create_foreign_key, create_index

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Add the columns, and the index that lists a reader's own sessions."""
    add_columns("chat_sessions", sa.Column("title", sa.Text()), sa.Column("owner", sa.Text()))
    create_index("ix_chat_sessions_owner_created_at_id", "chat_sessions", ["owner", "created_at", "id"])
    add_columns(
        "messages", sa.Column("feedback", sa.Text()), sa.Column("sources", sa.JSON()), sa.Column("reply_to", sa.Uuid())
    )
    create_foreign_key("messages_reply_to_fkey", "messages", "reply_to", "messages", ondelete="CASCADE")
    create_index("ix_messages_reply_to", "messages", ["reply_to"])


def downgrade() -> None:
    """Drop them."""
    with op.batch_alter_table("messages") as messages:
        messages.drop_index("ix_messages_reply_to")
        messages.drop_constraint("messages_reply_to_fkey", type_="foreignkey")
        messages.drop_column("reply_to")
        messages.drop_column("sources")
        messages.drop_column("feedback")
    op.drop_index("ix_chat_sessions_owner_created_at_id", table_name="chat_sessions")
    with op.batch_alter_table("chat_sessions") as chat_sessions:
        chat_sessions.drop_column("owner")
        chat_sessions.drop_column("title")
