"""The book's commands, run with `python -m app.book`."""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import override

from pydantic import SecretStr, ValidationInfo, field_validator

from app.book.embeddings import Embedder
from app.config import Settings, SettingsError

_PATIENCE = {"openai_max_retries": 6, "openai_timeout_seconds": 120.0}
"""Reading in a book is in no hurry, and may be told to wait by a provider that limits tokens per minute."""


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


def main() -> int:
    """Run the command that the arguments name; returns its exit status."""
    arguments = _parser().parse_args()
    try:
        arguments.run(arguments)
    except (CommandError, SettingsError) as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        print("Stopped. The book is as it was.", file=sys.stderr)  # noqa: T201
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.book", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ingest = commands.add_parser("ingest", help="read in a book, or what has changed in it")
    ingest.add_argument("folder", type=Path, metavar="DIR", help="the folder of its pages, such as docs")
    ingest.add_argument("--url", required=True, help="the address of that folder's root on the site")
    ingest.add_argument("--locale", help="the language of the pages, such as ur")
    ingest.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="GLOB",
        help="leave these files out; can be given several times",
    )
    ingest.add_argument(
        "--keep-number-prefixes",
        action="store_true",
        help="for sites that set numberPrefixParser to false: 01-intro.md is at 01-intro",
    )
    ingest.set_defaults(run=_ingest)
    return parser


def _ingest(arguments: argparse.Namespace) -> None:
    try:
        from app.book.reading import Folder, IngestError, TreeError, read_in  # noqa: PLC0415  # Only this needs the extra.
    except ModuleNotFoundError as error:
        raise CommandError(f"Reading in a book needs the book extra ({error}): uv sync --extra book") from None
    settings = CommandSettings.load()
    patience = {name: value for name, value in _PATIENCE.items() if name not in settings.model_fields_set}
    folder = Folder(
        path=arguments.folder,
        url=arguments.url,
        locale=arguments.locale,
        exclude=arguments.exclude,
        keep_numbers=arguments.keep_number_prefixes,
    )
    try:
        asyncio.run(read_in(folder, settings, Embedder(settings.model_copy(update=patience))))
    except (TreeError, IngestError) as error:
        raise CommandError(str(error)) from error


if __name__ == "__main__":
    sys.exit(main())
