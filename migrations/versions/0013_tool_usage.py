"""Count how often readers' assistants search the books."""

import sqlalchemy as sa
from alembic import op

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "tool_usage",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("tool", sa.Text(), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "tool"),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("tool_usage")
