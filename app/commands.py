"""What the commands have in common that people run beside the service."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import override

from pydantic import SecretStr, ValidationInfo, field_validator

from app.config import Settings, SettingsError
from app.database import Database, reason
from app.errors import DatabaseError
from app.logs import TextFormatter


class CommandError(Exception):
    """The command failed; the message says why."""


class CommandSettings(Settings):
    """The service's settings; with none at all, these are the ones of `fastapi dev`, and no command needs a key."""

    fastapi_env: str = "development"

    @field_validator("openai_api_key")
    @classmethod
    @override
    def _openai_api_key_is_given(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        return value


def run(parser: argparse.ArgumentParser, *, when_stopped: str | None = None) -> int:
    """Run the `command` that the parser finds in the arguments, and return its exit status.

    What went wrong is printed in one line; `when_stopped` is for whoever presses Ctrl-C, or terminates the command.
    """
    arguments = parser.parse_args()
    try:
        asyncio.run(_until_terminated(arguments.command(arguments)) if when_stopped else arguments.command(arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads the output, such as `head`, has enough. Python would complain when it writes the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (CommandError, SettingsError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except DatabaseError as error:
        print(f"The database failed: {reason(error.__cause__ or error)}", file=sys.stderr)  # noqa: T201
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError) as error:
        if when_stopped:
            print(when_stopped, file=sys.stderr)  # noqa: T201
        return 128 + (signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM)
    return 0


async def _until_terminated(command: Awaitable[None]) -> None:
    """Run the command, which SIGTERM cancels as Ctrl-C does: CI and containers stop programs so."""
    task = asyncio.current_task()
    if task is not None:
        with suppress(NotImplementedError, RuntimeError):  # On Windows, and outside of the main thread.
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await command


@asynccontextmanager
async def opened_database(settings: Settings) -> AsyncIterator[Database]:
    """Open the database of the settings; raises CommandError if it is not migrated."""
    handler = logging.StreamHandler()  # Results go to stdout.
    handler.setFormatter(TextFormatter(settings.secrets))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    database = Database(settings.database, pool_size=2)
    try:
        if database.dsn.sqlite:
            await database.migrate()
        elif not await database.is_migrated():
            raise CommandError("The database is not migrated. Please run: uv run alembic upgrade head")
        yield database
    finally:
        await database.close()
