"""The type of a column of vectors, which depends on the database."""

import logging
from typing import Any

from alembic import op
from pgvector.sqlalchemy import VECTOR
from sqlalchemy import ARRAY, REAL, Connection, LargeBinary, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

logger = logging.getLogger("alembic.runtime.migration")

# Some hosts keep extensions in a schema of their own. It comes last, so that tables are not made there.
FIND_PGVECTOR = """
    SELECT set_config('search_path', concat_ws(', ', current_setting('search_path'), quote_ident(nspname)), true)
    FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
    WHERE extname = 'vector' AND nspname <> ALL (current_schemas(true)) AND has_schema_privilege(nspname, 'USAGE')
"""
"""The statement that lets pgvector's names be found until the end of the transaction, wherever the extension is installed."""


def vector(dimensions: int) -> TypeEngine[Any]:
    """Return pgvector's type if PostgreSQL has it or lets us add it, `real[]` if not, and bytes on SQLite."""
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        return LargeBinary()
    if _has_pgvector(connection):
        return VECTOR(dimensions)
    logger.warning("pgvector cannot be had here: vectors are stored as real[], which pgvector casts to vector")
    return ARRAY(REAL())


def _has_pgvector(connection: Connection) -> bool:
    offered = text("SELECT installed_version, to_regtype('vector') FROM pg_available_extensions WHERE name = 'vector'")
    row = connection.execute(offered).first()
    if row is None or row.installed_version is not None:
        return row is not None and row.to_regtype is not None
    try:
        with connection.begin_nested():
            connection.execute(text("CREATE EXTENSION vector"))
    except DBAPIError as error:  # Hosts refuse extensions with SQLSTATEs of their own.
        if error.connection_invalidated:
            raise
        return False
    return True
