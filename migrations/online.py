"""Changes of tables that readers are using: each holds its locks for a moment, however large the table is.

On PostgreSQL the slow part of a change runs outside of a transaction, under a lock that lets questions be asked and answered.
What came before it in the revision is committed then, and stays if it fails. So each change here leaves alone what is there
already, and a revision that was interrupted can be run again.
"""

import logging
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

logger = logging.getLogger("alembic.runtime.migration")


def add_columns(table: str, *columns: sa.Column[Any]) -> None:
    """Add those of the columns that the table lacks; they need to be nullable, or to have a constant as their server default."""
    existing = {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)}
    for column in columns:
        if column.name not in existing:
            op.add_column(table, column)


def create_index(name: str, table: str, columns: Sequence[str | sa.TextClause], **options: Any) -> None:
    """Create the index unless it is there, also in place of one whose creation was interrupted."""
    if not _is_postgresql():
        op.create_index(name, table, columns, if_not_exists=True, **options)
        return
    logger.info("%s is built while readers go on; it waits for the transactions that are open now", name)
    with op.get_context().autocommit_block():
        is_valid = _find("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)", name=name)
        if is_valid is False:
            op.drop_index(name, table, postgresql_concurrently=True)
        if not is_valid:
            op.create_index(name, table, columns, postgresql_concurrently=True, **options)


def drop_index(name: str, table: str) -> None:
    """Drop the index if it is there."""
    if not _is_postgresql():
        op.drop_index(name, table, if_exists=True)
        return
    with op.get_context().autocommit_block():
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)


def create_foreign_key(name: str, table: str, column: str, referent: str, *, ondelete: str | None = None) -> None:
    """Let the column refer to the other table's id, unless it does already."""
    if not _is_postgresql():
        keys = sa.inspect(op.get_bind()).get_foreign_keys(table)
        if not any(key["constrained_columns"] == [column] for key in keys):
            with op.batch_alter_table(table) as batch:
                batch.create_foreign_key(name, referent, [column], ["id"], ondelete=ondelete)
        return
    found = "SELECT convalidated FROM pg_constraint WHERE conname = :name AND conrelid = to_regclass(:table)"
    is_validated = _find(found, name=name, table=table)
    if is_validated is None:
        op.create_foreign_key(name, table, referent, [column], ["id"], ondelete=ondelete, postgresql_not_valid=True)
    if not is_validated:
        with op.get_context().autocommit_block():
            op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")


def _is_postgresql() -> bool:
    return op.get_bind().dialect.name == "postgresql"


def _find(statement: str, **parameters: str) -> bool | None:
    found: bool | None = op.get_bind().scalar(sa.text(statement), parameters)
    return found
