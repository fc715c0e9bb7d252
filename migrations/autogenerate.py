"""What `alembic revision --autogenerate` and `alembic check` have to know of our columns."""

from collections import defaultdict
from typing import Any, Literal, override

from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations import ops
from pgvector.sqlalchemy import VECTOR
from sqlalchemy import ARRAY, Column, Enum, TypeDecorator
from sqlalchemy.types import TypeEngine
from sqlmodel import SQLModel

from app.models import Embedding


def include_name(name: str | None, kind: str, _parents: object) -> bool:
    """Leave out the table of revisions that is another application's, or was ours once, and what the search alone uses.

    The index of words is a table of PostgreSQL's, and a virtual one of SQLite's with tables of its own, so it has no model; nor have
    the counts of words, which SQLite keeps itself. The index of embeddings is made when a library has become large.
    """
    name = name or ""
    if kind == "table":
        return name not in {"alembic_version", "book_words"} and not name.startswith("document_words")
    return kind != "index" or name != "ix_documents_embedding"


def compare_type(
    _context: object,
    _inspected_column: object,
    _column: Column[Any],
    inspected_type: TypeEngine[Any],
    metadata_type: TypeEngine[Any],
) -> bool | None:
    """Accept an array as the column of an embedding; None leaves the other types to Alembic."""
    return False if isinstance(metadata_type, Embedding) and isinstance(inspected_type, ARRAY) else None


def render_item(kind: str, item: Any, context: AutogenContext) -> str | Literal[False]:
    """Write the type that the database sees instead of what Python makes of it; False leaves the others to Alembic."""
    if kind != "type":
        return False
    column_type = _in_database(item)
    if isinstance(column_type, VECTOR):
        context.imports.add("from migrations.vectors import vector")
        return f"vector({column_type.dim})"
    return False if column_type is item else f"sa.{column_type!r}"


def _in_database(column_type: TypeEngine[Any]) -> TypeEngine[Any]:
    return column_type.impl_instance if isinstance(column_type, TypeDecorator) else column_type


class EnumOp(ops.MigrateOperation):
    """Create or drop the type of an enum, which PostgreSQL keeps apart from the columns that have it."""

    def __init__(self, action: Literal["create", "drop"], enum: TypeEngine[Any]) -> None:
        self.action = action
        self.enum = enum

    @override
    def to_diff_tuple(self) -> tuple[str, TypeEngine[Any]]:
        return f"{self.action}_enum", self.enum


@renderers.dispatch_for(EnumOp)
def render_enum(_context: AutogenContext, operation: EnumOp) -> str:
    """Write the line of an EnumOp; on SQLite, where an enum is text, it does nothing."""
    return f"sa.{operation.enum!r}.{operation.action}(op.get_bind(), checkfirst=True)"


def add_enums(_context: object, _revision: object, directives: list[ops.MigrationScript]) -> None:
    """Have the types of new enums created and dropped with their columns, which Alembic does not do by itself."""
    [script] = directives
    [upgrade], [downgrade] = script.upgrade_ops_list, script.downgrade_ops_list
    tables = [operation for operation in upgrade.ops if isinstance(operation, ops.ModifyTableOps)]
    added = {step.column for table in tables for step in table.ops if isinstance(step, ops.AddColumnOp)}
    created = {item for table in upgrade.ops if isinstance(table, ops.CreateTableOp) for item in table.columns}
    uses: dict[str | None, set[Column[Any]]] = defaultdict(set)
    for table in SQLModel.metadata.sorted_tables:
        for column in table.columns:
            enum = _in_database(column.type)
            if isinstance(enum, Enum):
                uses[enum.name].add(column)
    for columns in uses.values():
        enum = _in_database(next(iter(columns)).type)
        if columns <= added:
            upgrade.ops.insert(0, EnumOp("create", enum))
        if columns <= added | created:
            downgrade.ops.append(EnumOp("drop", enum))
