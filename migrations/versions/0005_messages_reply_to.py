"""Let messages say which question they answer, in databases that got revision 0003 before it did so."""

import sqlalchemy as sa
from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Add the column if it is missing."""
    if "reply_to" in {column["name"] for column in sa.inspect(op.get_bind()).get_columns("messages")}:
        return
    with op.batch_alter_table("messages") as messages:
        messages.add_column(sa.Column("reply_to", sa.Uuid()))
        messages.create_foreign_key("messages_reply_to_fkey", "messages", ["reply_to"], ["id"], ondelete="CASCADE")
        messages.create_index("ix_messages_reply_to", ["reply_to"])


def downgrade() -> None:
    """Leave the column to the downgrade of revision 0003, which drops it."""
