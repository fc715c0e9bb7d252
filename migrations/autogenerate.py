"""What `alembic revision --autogenerate` and `alembic check` have to know of our columns."""

from typing import Any

from sqlalchemy import ARRAY, Column
from sqlalchemy.types import TypeEngine

from app.models import Embedding


def compare_type(
    _context: object,
    _inspected_column: object,
    _column: Column[Any],
    inspected_type: TypeEngine[Any],
    metadata_type: TypeEngine[Any],
) -> bool | None:
    """Accept an array as the column of an embedding; None leaves the other types to Alembic."""
    return False if isinstance(metadata_type, Embedding) and isinstance(inspected_type, ARRAY) else None
