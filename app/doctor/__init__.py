"""A deployment looked at before a reader does: `python -m app.admin doctor`.

Each finding is one line. A fault is what fails a turn, loses the book or lets cost run; everything else is advice.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import override

from pydantic import SecretStr, ValidationInfo, field_validator

from app.commands import CommandSettings
from app.config import Settings, SettingsError
from app.database import FAILURES, Database
from app.doctor.book import examine_book
from app.doctor.findings import CHECK_SECONDS, Finding
from app.doctor.model import examine_model
from app.doctor.server import examine_file, examine_server, unreachable
from app.doctor.tables import examine_tables
from app.errors import DatabaseError
from app.ratelimit import RateLimiter

_SHORTEST_SECRET = 4
_OF_MODEL = frozenset(
    {"openai_api_key", "openai_base_url", "openai_custom_headers", "openai_org_id", "openai_project_id"}
)


async def examine(*, ask: bool = False, processes: int = 1) -> AsyncIterator[Finding]:
    """Yield what is found of the deployment with the settings of the environment; no finding holds a secret.

    The model is asked a question, which costs a few tokens, only with `ask`.
    """
    settings, broken = read_settings()
    parts = [_settings(settings, broken)]
    if not {"rate_limit", "rate_limit_storage", "daily_token_budget"} & broken.keys():
        parts.append(_limits(settings))
    if not {"cors_origins", "cors_origin_regex"} & broken.keys():
        parts.append(_sites(settings))
    if "database_url" not in broken:
        parts.append(_database(settings, processes))
    if not _OF_MODEL & broken.keys():
        parts.append(examine_model(settings, ask=ask))
    secrets = [secret for secret in settings.secrets if len(secret) >= _SHORTEST_SECRET]
    for part in parts:
        async for finding in part:
            shown = finding.text
            for secret in secrets:
                shown = shown.replace(secret, "…")
            yield replace(finding, text=shown)


def read_settings() -> tuple[Settings, dict[str, str]]:
    """Return the settings of the service, with the defaults of those that are missing or wrong, and what is wrong with these."""
    try:
        return Settings.load(), {}
    except SettingsError as error:
        wrong = [line.split(maxsplit=1) for line in str(error).splitlines()[1:]]
    broken = {name.lower(): why for name, why in wrong}
    defaults = {name: Settings.model_fields[name].get_default() for name in broken}
    if _OF_MODEL & broken.keys():  # The key must not be sent to another server than its own.
        defaults["openai_api_key"] = None
    return _Settings(**defaults), broken


class _Settings(CommandSettings):
    """The service's settings, none of which is required."""

    fastapi_env: str = "production"

    @field_validator("database_url")
    @classmethod
    @override
    def _database_url_is_usable(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        return value


async def _settings(settings: Settings, broken: dict[str, str]) -> AsyncIterator[Finding]:
    for name, why in broken.items():
        yield Finding("FAULT", "settings", f"{name.upper()} {why}. The service does not start.")
    mode = "development, which allows embedded defaults" if settings.development else "production"
    yield Finding("ok", "settings", f"The mode is {mode}.")


async def _limits(settings: Settings) -> AsyncIterator[Finding]:
    budget, rate = settings.daily_token_budget, settings.rate_limit
    if budget is None and rate is None:
        yield Finding(
            "advice" if settings.development else "FAULT",
            "limits",
            "Whoever finds the address can ask the model as often as they like, at your cost. "
            "Set DAILY_TOKEN_BUDGET=1000000 or RATE_LIMIT=20/minute;200/day, or both.",
        )
        return
    said = [f"DAILY_TOKEN_BUDGET is {budget:,}"] if budget else []
    yield Finding("ok", "limits", f"{', '.join([*said, *([f'RATE_LIMIT is {rate}'] if rate else [])])}.")
    if rate and settings.rate_limit_storage is None:
        yield Finding(
            "ok", "limits", "Each process counts rates for itself; RATE_LIMIT_STORAGE makes Redis count for all."
        )
    elif rate and not await _counts(settings):
        yield Finding(
            "FAULT" if budget is None else "advice",
            "limits",
            "Redis does not answer at RATE_LIMIT_STORAGE, and then nobody is limited. Correct the address, or start Redis.",
        )


async def _counts(settings: Settings) -> bool:
    limiter = RateLimiter(settings)
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await limiter.is_available()
    except TimeoutError:
        return False
    finally:
        await limiter.close()


async def _sites(settings: Settings) -> AsyncIterator[Finding]:
    is_default = settings.cors_origins == Settings.model_fields["cors_origins"].default
    if is_default and settings.cors_origin_regex is None and not settings.development:
        yield Finding(
            "advice",
            "websites",
            "CORS_ORIGINS is not set, so only pages of http://localhost:3000 may ask. Set it to the address of your website, "
            "such as CORS_ORIGINS=https://book.example.org.",
        )
    elif "*" in settings.cors_origins:
        yield Finding("advice", "websites", "CORS_ORIGINS is *, so any website may ask at your cost. Name your own.")
    else:
        pattern = f", and what matches {settings.cors_origin_regex}" if settings.cors_origin_regex else ""
        yield Finding("ok", "websites", f"Pages of {', '.join(settings.cors_origins)}{pattern} may ask.")


async def _database(settings: Settings, processes: int) -> AsyncIterator[Finding]:
    dsn = settings.database
    if dsn.sqlite:
        file, findings = examine_file(dsn, settings)
        for finding in findings:
            yield finding
        if file is None:
            return
    # Without caches, the statements also pass through a pooler that the string does not show.
    database = Database(replace(dsn, pooled=True), pool_size=2)
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            if not dsn.sqlite:
                for finding in await examine_server(database, dsn, settings, processes):
                    yield finding
            for finding in await examine_tables(database, settings):
                yield finding
            for finding in await examine_book(database, settings):
                yield finding
    except (DatabaseError, *FAILURES) as error:
        yield Finding("FAULT", "database", unreachable(error, dsn))
    finally:
        await database.close()
