"""The database's connection string, translated from what people paste to what the driver takes.

Neon, Render, Supabase and Heroku give out strings for libpq. The driver, asyncpg, does not know half of libpq's parameters,
and SQLAlchemy passes each one on as a keyword argument. The translation keeps libpq's meaning.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self
from urllib.parse import unquote

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
_WITHOUT_EFFECT = frozenset(
    {
        # They choose between ways to connect, of which asyncpg has only one.
        *("sslnegotiation", "gssencmode", "gsslib", "krbsrvname", "target_session_attrs", "load_balance_hosts"),
        *("sslsni", "sslcompression", "uselibpqcompat", "client_encoding", "fallback_application_name"),
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
        # They are for the pools of other clients; ours has DATABASE_POOL_SIZE.
        *("connection_limit", "pool_timeout", "pool_size", "max_overflow", "socket_timeout"),
        # They tell a provider which client is asking.
        *("workaround", "supa"),
    }
)
_SSL_WORDS = {"true": "require", "1": "require", "no-verify": "require", "false": "disable", "0": "disable"}
"""What other clients say in `ssl` or `sslmode`, in libpq's words."""
_TRUE = frozenset({"true", "1", "yes", "on"})

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
        url = make_url(_unwrapped(dsn))
    except (ArgumentError, ValueError):
        raise ValueError("is not a connection string such as postgresql://user:password@host/database") from None
    if url.drivername not in _DRIVERS:
        raise ValueError(f"has the scheme {url.drivername!r}; use postgresql:// or sqlite+aiosqlite://")
    url = url.set(drivername=_DRIVERS[url.drivername])
    if url.get_backend_name() == "sqlite":
        return Dsn(url)
    url = _with_libpqs_places(url)
    if not url.host or not url.database:
        raise ValueError("names no host or no database; write postgresql://user:password@host/database")
    if "@" in url.host + url.database or ("/" in url.host and not url.host.startswith("/")):
        raise ValueError("has an @ or / in its user or password; write %40 or %2F instead")
    if "," in url.host or not 0 < (url.port or 5432) < 65536:  # noqa: PLR2004  # TCP's own bounds.
        raise ValueError("must name one host; a port must be from 1 to 65535")
    return _postgresql(url)


def _unwrapped(dsn: str) -> str:
    """Return the string without what is copied along: a line's end, `psql '…'`, or the variable's name and its `=`."""
    text = re.sub(r"\s*[\r\n]+\s*", "", dsn.strip())
    text = re.sub(r"^(?:export\s+)?[A-Z_]+\s*=\s*|^psql\s+", "", text)
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _with_libpqs_places(url: URL) -> URL:
    """Return the address with the parts that libpq also takes as parameters or escaped, such as a socket's folder as host."""
    query = _query(url)
    port = query.pop("port", None)
    if port is not None and not port.isdecimal():
        raise ValueError("must name one host; a port must be from 1 to 65535")
    parts: dict[str, Any] = {
        "host": query.pop("host", None) or unquote(url.host or "") or None,
        "port": int(port) if port else url.port,
        "username": url.username or query.pop("user", None),
        "password": url.password or query.pop("password", None),
        "database": url.database or query.pop("dbname", None),
    }
    return url.set(query=query, **{name: part for name, part in parts.items() if part is not None})


def _query(url: URL) -> dict[str, str]:
    return {name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()}


def _postgresql(url: URL) -> Dsn:
    query = {name: value for name, value in _query(url).items() if name not in _WITHOUT_EFFECT}
    caches = [query.pop(name, None) for name in ("statement_cache_size", "prepared_statement_cache_size")]
    pooled = (
        query.pop("pgbouncer", "").lower() in _TRUE
        or "0" in caches
        or (url.host or "").partition(".")[0].endswith("-pooler")
        or url.port == _TRANSACTION_POOLER_PORT
    )
    if query.pop("schema", "public") != "public":
        raise ValueError("has a schema other than public; use the search_path of its role instead")
    parameters: dict[str, Any] = {"timeout": _connect_timeout(query.pop("connect_timeout", None))}
    mode = query.pop("ssl", None)
    mode = query.pop("sslmode", mode)
    tls = _tls(
        _SSL_WORDS.get(mode.lower(), mode) if mode else None,
        query.pop("sslrootcert", None),
        query.pop("channel_binding", None),
    )
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
    # Python 3.13 sets this, and refuses private authorities that libpq accepts.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = mode == "verify-full"
    return context


def _options(options: str) -> dict[str, str]:
    """Return the server settings in libpq's `options`, in the form `-c name=value` or `--name=value`.

    A backslash takes a blank into a value. Neon's `endpoint=…` and Supabase's `reference=…` are left out: only clients without
    SNI need them, and asyncpg has SNI.
    """
    settings = {}
    words = re.findall(r"(?:\\.|[^\s\\])+", re.sub(r"(^|\s)-c\s*", r"\1--", options))
    for escaped_word in words:
        word = re.sub(r"\\(.)", r"\1", escaped_word)
        name, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            raise ValueError("has options that are not of the form -c name=value")
        if word.startswith("--"):
            settings[name.replace("-", "_")] = value
        elif name not in {"endpoint", "project", "reference"}:
            raise ValueError(f"has an option that is not supported here: {name}")
    return settings
