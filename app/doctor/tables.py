"""The tables: whether they are those of this release, and whether the service may use them."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Row, bindparam, text
from sqlmodel import SQLModel

from app.config import Settings
from app.database import PRIVILEGES, REVISION, VERSION_TABLE, Database
from app.doctor.findings import Finding

_TABLES = text("""
    SELECT relname AS name, quote_ident(nspname) AS schema, quote_ident(current_user) AS role,
           pg_table_is_visible(pg_class.oid) AS is_visible, has_schema_privilege(pg_namespace.oid, 'USAGE') AS is_usable,
           row_security_active(pg_class.oid) AS has_row_security,
           EXISTS (SELECT FROM pg_policy WHERE polrelid = pg_class.oid) AS has_policies,
           ARRAY(SELECT privilege FROM unnest(CAST(:privileges AS text[])) AS asked (privilege)
                 WHERE NOT has_table_privilege(pg_class.oid, privilege)) AS missing
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relname = ANY (CAST(:names AS text[])) AND relkind IN ('r', 'p') AND nspname NOT LIKE 'pg\\_%'
""").bindparams(bindparam("privileges", ["SELECT", "INSERT", "UPDATE", "DELETE"]))


async def examine_tables(database: Database, settings: Settings) -> list[Finding]:
    """Return whether the tables are there, as new as this release needs them, and the role may use them; raises DatabaseError."""
    if database.dsn.sqlite:
        return [Finding("ok", "tables", "The service migrates SQLite itself when it starts.")]
    names = sorted({*SQLModel.metadata.tables, *PRIVILEGES})
    rows = await database.execute((_TABLES, {"names": names}))
    visible = {row.name: row for row in rows if row.is_visible and row.is_usable}
    findings = list(_schema(rows, visible))
    if visible:
        findings += [*_grants(visible.values(), settings), *_row_security(visible.values())]
    if VERSION_TABLE in visible and "SELECT" not in visible[VERSION_TABLE].missing:
        findings.append(await _revision(database))
    missing = sorted(set(names) - set(visible))
    if missing and not any((finding.verdict, finding.subject) == ("FAULT", "tables") for finding in findings):
        said = f"The tables {', '.join(missing)} are missing. Run: alembic upgrade head"
        findings.append(Finding("FAULT", "tables", said))
    return findings


def _schema(rows: Sequence[Row[Any]], visible: dict[str, Row[Any]]) -> Iterator[Finding]:
    for row in rows:
        if row.name == "messages" and row.name not in visible:
            said = f"The tables are in the schema {row.schema}, "
            if row.is_usable:
                yield Finding(
                    "FAULT",
                    "tables",
                    f"{said}which is not searched. Run: ALTER ROLE {row.role} SET search_path TO {row.schema};",
                )
            else:
                run = f"Run as its owner: GRANT USAGE ON SCHEMA {row.schema} TO {row.role};"
                yield Finding("FAULT", "tables", f"{said}which {row.role} may not use. {run}")


async def _revision(database: Database) -> Finding:
    [(found,)] = await database.execute((text(f"SELECT max(version_num) FROM {VERSION_TABLE}"), {}))  # noqa: S608  # A constant.
    if (found or "") < REVISION:
        said = f"The tables are those of revision {found or 'none'}, and this release needs {REVISION}"
        return Finding("FAULT", "tables", f"{said}. Run: alembic upgrade head")
    return Finding("ok", "tables", f"The revision is {found}.")


def _grants(tables: Iterable[Row[Any]], settings: Settings) -> Iterator[Finding]:
    """Yield the statements that give the role what it lacks: what the service needs, and what only the commands do."""
    is_counted = {"token_usage": settings.daily_token_budget is not None, "tool_usage": settings.mcp_enabled}
    needed: dict[tuple[str, ...], list[str]] = defaultdict(list)
    useful: dict[tuple[str, ...], list[str]] = defaultdict(list)
    role = ""
    for table in tables:
        role = table.role
        of_service = PRIVILEGES.get(table.name, ()) if is_counted.get(table.name, True) else ()
        if lacking := tuple(privilege for privilege in table.missing if privilege in of_service):
            needed[lacking].append(table.name)
        is_ours = table.name != VERSION_TABLE
        if rest := tuple(privilege for privilege in table.missing if privilege not in of_service and is_ours):
            useful[rest].append(table.name)
    for privileges, names in needed.items():
        said = f"{role} may not {' or '.join(privileges)} in {', '.join(sorted(names))}, which the service needs."
        yield Finding("FAULT", "grants", f"{said} {_grant(privileges, names, role)}")
    for privileges, names in useful.items():
        said = f"{role} may not {' or '.join(privileges)} in {', '.join(sorted(names))}, which only commands need."
        yield Finding("advice", "grants", f"{said} {_grant(privileges, names, role)}")
    if not needed:
        yield Finding("ok", "grants", "The role may do what the service needs to.")


def _grant(privileges: Sequence[str], names: Sequence[str], role: str) -> str:
    return f"Run as their owner: GRANT {', '.join(privileges)} ON {', '.join(sorted(names))} TO {role};"


def _row_security(tables: Iterable[Row[Any]]) -> Iterator[Finding]:
    hidden = [table for table in tables if table.has_row_security]
    for table in hidden:
        said = f"Row-level security of {table.name} applies to {table.role}"
        if table.has_policies:
            yield Finding("advice", "grants", f"{said}: its policies must let the service read and write every row.")
        else:
            run = f"Run as its owner: ALTER TABLE {table.name} DISABLE ROW LEVEL SECURITY;"
            yield Finding("FAULT", "grants", f"{said} and has no policy, so it sees no row. {run}")
