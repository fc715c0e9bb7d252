"""Record how an answer ended, and what else it cost."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | None = None
depends_on: str | None = None

_COLUMNS: dict[str, sa.types.TypeEngine[Any]] = {
    "truncated": sa.Boolean(),
    "service_tier": sa.Text(),
    "cached_tokens": sa.Integer(),
    "reasoning_tokens": sa.Integer(),
}


def upgrade() -> None:
    """Add the columns."""
    for name, kind in _COLUMNS.items():
        op.add_column("messages", sa.Column(name, kind, nullable=True))


def downgrade() -> None:
    """Drop them."""
    for name in reversed(_COLUMNS):
        op.drop_column("messages", name)
