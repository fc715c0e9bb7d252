"""Alembic's environment: the service's tables, in the database of the service's settings."""

import asyncio
import logging

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlmodel import SQLModel

from app.config import DatabaseSettings, SettingsError
from migrations.autogenerate import add_enums, compare_type, render_item

LOCK = 0x626F6F6B
"""The advisory lock that makes deploys migrate one at a time."""


def migrate(connection: Connection) -> None:
    """Run the migrations that Alembic asks for."""
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        compare_type=compare_type,
        process_revision_directives=add_enums,
        render_item=render_item,
        render_as_batch=True,
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        context.run_migrations()


async def connect_and_migrate() -> None:
    """Open the database that the settings name, and migrate it."""
    try:
        dsn = DatabaseSettings.load().database.direct
    except SettingsError as error:
        raise CommandError(str(error)) from None
    engine = create_async_engine(dsn.url, connect_args=dsn.connect_args, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
        await connection.commit()
    await engine.dispose()


# The service passes a connection when it migrates its embedded database; the command line does not.
if connection := context.config.attributes.get("connection"):
    migrate(connection)
else:
    logging.basicConfig(level=logging.INFO, format="%(levelname)-5.5s [%(name)s] %(message)s")
    asyncio.run(connect_and_migrate())
