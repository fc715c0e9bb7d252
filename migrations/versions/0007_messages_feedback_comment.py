"""Keep what a reader says about an answer beside the rating."""

import sqlalchemy as sa
from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("messages", sa.Column("feedback_comment", sa.Text()))


def downgrade() -> None:
    """Drop it."""
    with op.batch_alter_table("messages") as messages:
        messages.drop_column("feedback_comment")
