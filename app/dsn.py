"""The database's connection string, translated from what people paste to what the driver takes.

Neon, Render, Supabase and Heroku give out strings for libpq. The driver, asyncpg, does not know half of libpq's parameters,
and SQLAlchemy passes each one on as a keyword argument. The translation keeps libpq's meaning.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

CONNECT_TIMEOUT_SECONDS = 10.0
"""How long a new connection may take if the string does not say: long enough for a suspended database to wake up."""

_DRIVERS = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
}
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_WITHOUT_EFFECT = frozenset({"sslnegotiation", "gssencmode", "target_session_attrs"})
"""Parameters that choose between ways to connect; asyncpg has only one."""

_TRANSACTION_POOLER_PORT = 6543


@dataclass(frozen=True)
class Dsn:
    """Where the database is and how to connect to it."""

    url: URL
    """Driver, host, credentials and database; it has no query, and prints without its password."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The other things that the string says, as keyword arguments of the driver's `connect`."""
    pooled: bool = False
    """Whether a pooler in transaction mode answers: Neon's `-pooler` host, port 6543, or `pgbouncer=true`."""

    @property
    def connect_args(self) -> dict[str, Any]:
        """Every keyword argument of the driver's `connect`.

        Behind a pooler, the next statement may reach a server that has not prepared it, so prepared statements are not cached.
        """
        caches = {"statement_cache_size": 0, "prepared_statement_cache_size": 0} if self.pooled else {}
        return {**self.parameters, **caches}

    @property
    def direct(self) -> Self:
        """The same database without Neon's pooler, for migrations."""
        host, dot, domain = (self.url.host or "").partition(".")
        if not host.endswith("-pooler"):
            return self
        return replace(self, url=self.url.set(host=host.removesuffix("-pooler") + dot + domain), pooled=False)

    @property
    def sqlite(self) -> bool:
        """Whether this is the embedded database."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def in_memory(self) -> bool:
        """Whether the embedded database has no file."""
        return self.sqlite and self.url.database in {None, "", ":memory:"}


def parse(dsn: str) -> Dsn:
    """Translate a connection string.

    Raises ValueError with a message that says what is wrong, and never quotes the password.
    """
    try:
        url = make_url(dsn.strip())
    except (ArgumentError, ValueError):
        raise ValueError("is not a connection string such as postgresql://user:password@host/database") from None
    if url.drivername not in _DRIVERS:
        raise ValueError(f"has the scheme {url.drivername!r}; use postgresql:// or sqlite+aiosqlite://")
    url = url.set(drivername=_DRIVERS[url.drivername])
    if url.get_backend_name() == "sqlite":
        return Dsn(url)
    if not url.host or not url.database:
        raise ValueError("names no host or no database; write postgresql://user:password@host/database")
    if "@" in url.host + url.database:
        raise ValueError("has an @ or / in its user or password; write %40 or %2F instead")
    if "," in url.host or not 0 < (url.port or 5432) < 65536:  # noqa: PLR2004  # TCP's own bounds.
        raise ValueError("must name one host; a port must be from 1 to 65535")
    return _postgresql(url)


def _postgresql(url: URL) -> Dsn:
    query = {name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()}
    for name in _WITHOUT_EFFECT:
        query.pop(name, None)
    pooled = (
        (url.host or "").partition(".")[0].endswith("-pooler")
        or url.port == _TRANSACTION_POOLER_PORT
        or query.pop("pgbouncer", "").lower() == "true"
    )
    query.pop("pgbouncer", None)
    parameters: dict[str, Any] = {"timeout": _connect_timeout(query.pop("connect_timeout", None))}
    tls = _tls(query.pop("sslmode", None), query.pop("sslrootcert", None), query.pop("channel_binding", None))
    if tls is not None:
        parameters["ssl"] = tls
    server_settings = _options(query.pop("options", ""))
    if "application_name" in query:
        server_settings["application_name"] = query.pop("application_name")
    if server_settings:
        parameters["server_settings"] = server_settings
    if query:
        raise ValueError(f"has parameters that are not supported here: {', '.join(sorted(query))}")
    return Dsn(url.set(query={}), parameters, pooled)


def _connect_timeout(seconds: str | None) -> float | None:
    """Return seconds, or None for no limit, which is zero in libpq."""
    if seconds is None:
        return CONNECT_TIMEOUT_SECONDS
    if not re.fullmatch(r"\d{1,6}", seconds):
        raise ValueError("has a connect_timeout that is not a whole number of seconds")
    return float(seconds) or None


def _tls(mode: str | None, root_certificate: str | None, channel_binding: str | None) -> ssl.SSLContext | str | None:
    """Return asyncpg's `ssl` argument; None means its default, which is `prefer` as in libpq."""
    if mode is not None and mode not in _SSL_MODES:
        raise ValueError(f"has an unknown sslmode; use one of {', '.join(_SSL_MODES)}")
    if channel_binding not in {None, "disable", "prefer", "require"}:
        raise ValueError("has an unknown channel_binding; use one of disable, prefer, require")
    if channel_binding == "require":
        # Channel binding detects a man in the middle, and asyncpg does not support it. Verifying the certificate detects one
        # too, and the hosts that ask for channel binding have certificates of public authorities.
        mode = "verify-full"
    elif root_certificate == "system":
        if mode not in {None, "verify-full"}:
            raise ValueError("has sslrootcert=system, which needs sslmode=verify-full")
        mode = "verify-full"
    elif mode == "require" and root_certificate:
        mode = "verify-ca"
    if mode not in {"verify-ca", "verify-full"}:
        return mode
    try:
        context = ssl.create_default_context(cafile=None if root_certificate == "system" else root_certificate)
    except OSError:
        raise ValueError("names an sslrootcert that is not a readable file of certificates") from None
    context.check_hostname = mode == "verify-full"
    return context


def _options(options: str) -> dict[str, str]:
    """Return the server settings in libpq's `options`, in the form `-c name=value` or `--name=value`.

    Neon's `endpoint=…` is left out: only clients without SNI need it, and asyncpg has SNI.
    """
    settings = {}
    for word in re.sub(r"(^|\s)-c\s*", r"\1--", options).split():
        name, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            raise ValueError("has options that are not of the form -c name=value")
        if word.startswith("--"):
            settings[name.replace("-", "_")] = value
        elif name not in {"endpoint", "project"}:
            raise ValueError(f"has an option that is not supported here: {name}")
    return settings
