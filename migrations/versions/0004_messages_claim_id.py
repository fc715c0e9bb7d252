"""Give each claim on a question an id of its own."""

import sqlalchemy as sa
from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("messages", sa.Column("claim_id", sa.Uuid()))


def downgrade() -> None:
    """Drop it."""
    with op.batch_alter_table("messages") as messages:
        messages.drop_column("claim_id")
