"""Alembic's environment: the service's tables, in the database of the service's settings."""

import asyncio
import logging

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, inspect, text
from sqlmodel import SQLModel

from app.config import DatabaseSettings, SettingsError
from app.database import FAILURES, VERSION_TABLE, command_engine, reason
from migrations.autogenerate import add_enums, compare_type, include_name, render_item
from migrations.exclusive import exclusive_connection, run_patiently


def migrate(connection: Connection) -> None:
    """Run the migrations that Alembic asks for, each in a transaction of its own; one that has begun outside holds them all."""
    has_begun = connection.in_transaction()
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        version_table=VERSION_TABLE,
        include_name=include_name,
        compare_type=compare_type,
        process_revision_directives=add_enums,
        render_item=render_item,
        render_as_batch=True,
        transaction_per_migration=True,
    )
    adopt(connection)
    if not has_begun:
        connection.commit()
    context.run_migrations()


def adopt(connection: Connection) -> None:
    """Go on from the revision in `alembic_version`, where this service once kept it, if it is ours.

    The row stays: it may be another application's, and an older release of this service still reads its own.
    """
    inspector = inspect(connection)
    if inspector.has_table(VERSION_TABLE) or not inspector.has_table("alembic_version"):
        return
    if not inspector.has_table("chat_sessions") or not inspector.has_table("messages"):
        return
    if not {"session_id", "selected_text"} <= {column["name"] for column in inspector.get_columns("messages")}:
        return
    ours = {script.revision for script in context.script.walk_revisions()}
    for revision in connection.scalars(text("SELECT version_num FROM alembic_version")).all():
        if revision in ours:
            context.get_context().stamp(context.script, revision)


async def connect_and_migrate() -> None:
    """Open the database that the settings name, wait for it if it is waking, and migrate it."""
    try:
        engine = command_engine(DatabaseSettings.load().database)
    except SettingsError as error:
        raise CommandError(str(error)) from None
    try:
        async with exclusive_connection(engine) as connection:
            await run_patiently(connection, migrate)
            await connection.commit()
    except FAILURES as error:
        raise CommandError(f"The database cannot be migrated: {reason(error)}") from error
    finally:
        await engine.dispose()


# The service passes a connection when it migrates its embedded database; the command line does not.
if connection := context.config.attributes.get("connection"):
    migrate(connection)
else:
    logging.basicConfig(level=logging.INFO, format="%(levelname)-5.5s [%(name)s] %(message)s")
    asyncio.run(connect_and_migrate())
