"""The type of a column of vectors, which depends on the database."""

import logging
from typing import Any

from alembic import op
from pgvector.sqlalchemy import VECTOR
from sqlalchemy import ARRAY, JSON, REAL, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

logger = logging.getLogger("alembic.runtime.migration")


def vector(dimensions: int) -> TypeEngine[Any]:
    """Return pgvector's type if PostgreSQL has it or lets us add it, `real[]` if not, and JSON on SQLite."""
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        return JSON()
    offered = text("SELECT installed_version FROM pg_available_extensions WHERE name = 'vector'")
    row = connection.execute(offered).first()
    if row is not None and row.installed_version is None:
        try:
            with connection.begin_nested():
                connection.execute(text("CREATE EXTENSION vector"))
        except DBAPIError as error:  # Hosts refuse extensions with SQLSTATEs of their own.
            if error.connection_invalidated:
                raise
            row = None
    if row is not None:
        return VECTOR(dimensions)
    logger.warning("pgvector cannot be had here: vectors are stored as real[], which pgvector casts to vector")
    return ARRAY(REAL())
