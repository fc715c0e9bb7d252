"""The database's connection string, translated from what people paste to what the driver takes.

Providers give out strings for libpq, Prisma, JDBC or node-postgres. The driver, asyncpg, does not know half of their parameters,
and SQLAlchemy passes each one on as a keyword argument. The translation keeps their meaning.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self
from urllib.parse import quote, unquote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

CONNECT_TIMEOUT_SECONDS = 10.0
"""How long a new connection may take if the string does not say: long enough for a suspended database to wake up."""

UNCACHED = {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
"""The driver's arguments behind a pooler, where the next statement may reach a server that has not prepared it."""

_DRIVERS = {
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
    "postgresql+asyncpg": "postgresql+asyncpg",
    "sqlite": "sqlite+aiosqlite",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
}
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
"""From the least to the most secure."""

_SSL_MODES_OF_OTHERS = {
    **dict.fromkeys(("true", "1", "yes", "on", "no-verify"), "require"),
    **dict.fromkeys(("false", "0", "no", "off"), "disable"),
}
"""What JDBC, node-postgres and frameworks write in `ssl` and `sslmode`, in libpq's words."""

_WITHOUT_EFFECT = frozenset(
    {
        # They choose between ways to connect; asyncpg has only one.
        *("gssencmode", "gsslib", "krbsrvname", "load_balance_hosts", "sslcompression", "sslnegotiation", "sslsni"),
        *("target_session_attrs", "uselibpqcompat"),
        *("keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "tcp_user_timeout"),
        # They are for the pools of other clients; ours has DATABASE_POOL_SIZE.
        *("connection_limit", "max_connection_lifetime", "max_idle_connection_lifetime", "max_overflow", "pool_size"),
        *("pool_timeout", "single_use_connections", "socket_timeout"),
        # They tell Supabase which client is asking.
        *("supa", "workaround"),
    }
)

_POOLER_SETTINGS = frozenset({"application_name", "timezone", "datestyle", "standard_conforming_strings", "options"})
"""The settings that poolers in transaction mode keep for each client; they refuse others. `options` is Supabase's own."""

_POOLER_PORTS = {6432: "", 6543: "", 5431: ".postgresbridge.com", 25061: ".ondigitalocean.com"}
"""The ports of poolers in transaction mode, and how a host's name ends where the port alone does not tell."""

_DIRECT_HOSTS = {"pooled.db.prisma.io": "db.prisma.io"}
"""Poolers in transaction mode that have no port of their own, and the hosts behind them."""

_YES, _NO = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})
_CACHES_NOTHING = {
    "pgbouncer": _YES,
    "prepare": _NO,
    "prepareThreshold": {"0"},
    "prepared_statement_cache_size": {"0"},
    "prepared_statements": _NO,
    "statement_cache_size": {"0"},
}
"""What tells other drivers to keep no prepared statements, because of a pooler in transaction mode."""

_SCHEMA_PARAMETERS = ("schema", "currentSchema")

_SCHEME = re.compile(r"(?:postgres|postgresql|sqlite)(?:\+\w+)?://")
_WORD = r"""([a-z_]+)\s*=\s*('(?:\\.|[^'\\])*'|(?:\\.|[^\s'\\;])*)"""
_WORDS = re.compile(rf"(?=.*\b(?:host|dbname|user)\s*=)\s*(?:{_WORD}\s*)+", re.DOTALL)
"""libpq's other form: `host=… user=…`."""

_QUOTED = re.compile(r"""(["'`])(.*)\1|“(.*)”|\u2018(.*)\u2019|<(.*)>""", re.DOTALL)
_BEFORE = re.compile(
    r"(?:export\s+|set\s+|ENV\s+|\$env:|-e\s+)?[A-Za-z_]\w*\s*(?:=|:\s)\s*|psql\s+(?:-d\s+|--dbname[=\s]\s*)?|jdbc:(?=postgres)"
)
"""What stands before a string where it is shown: the variable's name, a command, or `jdbc:`."""
_COMMENT = re.compile(r"(?:^|\s+)(?:#|(?://|--)(?=\s)).*$")
_NEXT_VARIABLE = re.compile(r"\s*(?:export\s+)?[A-Z][A-Z0-9_]*\s*=")

_PASTED_BEFORE = re.compile(r"""(?:export\s+)?(?:\w+\s*[=:]\s*)?(?:psql\s+|jdbc:)?["'`“\u2018]?""")
"""The text before a string that an error may show: it holds no password."""

_REFERENCE = re.compile(r"\$\{.*\}|\$\(.*\)|\{\{.*\}\}|\$\w+")
"""What a platform or a shell would have replaced."""

_UNSUPPORTED_HOSTS = {
    ".cockroachlabs.cloud": "CockroachDB, which lacks parts of PostgreSQL that the service needs; use PostgreSQL",
    ".on.aws": "Aurora DSQL, which has no foreign keys; use Aurora or RDS for PostgreSQL",
    "accelerate.prisma-data.net": "Prisma Accelerate, which only Prisma's client understands; use the direct connection string",
}

_PLACEHOLDER = re.compile(r"://[^/?@]*:(?:\[[^@]*\]|\{[^@]*\}|<[^@]*>|[*\u2022]+|%5BYOUR-PASSWORD%5D)@", re.IGNORECASE)
_SOCKET_AS_HOST = re.compile(r"@(%2F[^@/?]*?)(:\d+)?(?=[/?]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Dsn:
    """Where the database is and how to connect to it."""

    url: URL
    """Driver, host, credentials and database; it has no query, and prints without its password."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The other things that the string says, as keyword arguments of the driver's `connect`."""
    pooled: bool = False
    """Whether a pooler in transaction mode answers, as far as host, port and parameters show it."""

    @property
    def connect_args(self) -> dict[str, Any]:
        """Every keyword argument of the driver's `connect`. Behind a pooler, prepared statements are not cached."""
        return {**self.parameters, **(UNCACHED if self.pooled else {})}

    @property
    def direct(self) -> Self:
        """The same database without the pooler of Neon or Prisma, for migrations."""
        pooler = self.url.host or ""
        host, dot, domain = pooler.partition(".")
        direct = _DIRECT_HOSTS.get(pooler, host.removesuffix("-pooler") + dot + domain)
        return self if direct == pooler else replace(self, url=self.url.set(host=direct), pooled=False)

    @property
    def sqlite(self) -> bool:
        """Whether this is the embedded database."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def in_memory(self) -> bool:
        """Whether the embedded database has no file."""
        return self.sqlite and self.url.database in {None, "", ":memory:"}


def parse(dsn: str, *, pooled: bool | None = None) -> Dsn:
    """Translate a connection string; `pooled` overrides what the string shows of a pooler.

    Raises ValueError with a message that says what is wrong, and never quotes the password.
    """
    text = _unwrapped(dsn)
    if _WORDS.fullmatch(text):
        url = _from_words(text)
    else:
        _refuse_what_pasting_adds(text)
        url = _from_address(text)
    if url.get_backend_name() == "sqlite":
        return Dsn(url)
    query = {name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()}
    url = _with_address_in_query(url.set(query={}), query)
    if not url.database:
        url = url.set(database=url.username)  # As libpq does.
    if not url.host or not url.database:
        raise ValueError("names no host or no database; write postgresql://user:password@host/database")
    for ending, product in _UNSUPPORTED_HOSTS.items():
        if url.host.endswith(ending):
            raise ValueError(f"leads to {product}")
    if "@" in url.host + url.database:
        raise ValueError("has an @ or / in its user or password; write %40 or %2F instead")
    if "," in url.host or not 0 < (url.port or 5432) < 65536:  # noqa: PLR2004  # TCP's own bounds.
        raise ValueError("must name one host; a port must be from 1 to 65535")
    return _postgresql(url, query, pooled=pooled)


def _unwrapped(dsn: str) -> str:
    """Return the string without what is copied along: other lines, comments, quotes, `psql '…'`, or the variable's name."""
    text, longer = _first_value(dsn), None
    while text != longer and not _SCHEME.match(text) and not _WORDS.fullmatch(text):
        longer = text
        if (before := _BEFORE.match(text)) and ";" not in text:
            text = text[before.end() :]
        if quoted := _QUOTED.fullmatch(text):
            text = next(part for part in quoted.groups()[1:] if part is not None).strip()
    return text.replace("&amp;", "&")


def _first_value(text: str) -> str:
    """Return the first line that has a connection string, with the lines that it goes on in."""
    lines = [line for line in (_COMMENT.sub("", line).strip() for line in re.split(r"[\r\n]+", text)) if line]
    first = next((number for number, line in enumerate(lines) if _SCHEME.search(line)), None)
    if first is None:
        return " ".join(lines)
    following = lines[first + 1 :]
    end = next((n for n, line in enumerate(following) if _SCHEME.search(line) or _NEXT_VARIABLE.match(line)), None)
    return "".join([lines[first], *following[:end]])


def _from_words(text: str) -> URL:
    query = {}
    for name, value in re.findall(_WORD, text):
        query[name] = re.sub(r"\\(.)", r"\1", value[1:-1] if value.startswith("'") else value)
    return URL.create(_DRIVERS["postgresql"], query=query)


def _from_address(text: str) -> URL:
    try:
        url = make_url(_SOCKET_AS_HOST.sub(lambda match: "@" + quote(unquote(match[1]), "") + (match[2] or ""), text))
    except (ArgumentError, ValueError):
        raise ValueError("is not a connection string such as postgresql://user:password@host/database") from None
    if url.drivername.startswith("prisma"):
        raise ValueError(f"leads to {_UNSUPPORTED_HOSTS['accelerate.prisma-data.net']}")
    # Drivers of other programs are named in the strings that are shown for them.
    driver = re.sub(r"^postgres(?:ql)?\+\w+$", "postgresql", url.drivername)
    if driver not in _DRIVERS:
        raise ValueError(f"has the scheme {url.drivername!r}; use postgresql:// or sqlite+aiosqlite://")
    return url.set(drivername=_DRIVERS[driver])


def _refuse_what_pasting_adds(text: str) -> None:
    """Raise ValueError if there is other text around the string, or a placeholder in it."""
    before, scheme, rest = re.split(rf"((?:prisma\+)?{_SCHEME.pattern}|$)", text, maxsplit=1)
    if scheme and before:
        shown = before if _PASTED_BEFORE.fullmatch(before) else "other text"
        raise ValueError(f"is not a connection string alone: before {scheme} it has {shown.strip()}")
    if rest and rest[-1] in "\"'`;,”\u2019":
        raise ValueError(f"is not a connection string alone: it ends with {rest[-1]}")
    if re.search(r"[\r\n\t]", text):
        raise ValueError("has a line break or a tab in it; a connection string is one line")
    if _REFERENCE.fullmatch(text):
        raise ValueError("is a reference to another variable, which was not replaced; set the connection string itself")
    if not scheme and re.search(r"(?:^|[\s;\"'])(?:host|server|dbname)\s*=", text, re.IGNORECASE):
        raise ValueError(
            "is not a connection string in the form of an address: "
            "instead of host=… user=… write postgresql://user:password@host/database"
        )
    if not scheme and re.search(r"\bpsql\b", text):
        raise ValueError("is a command for psql, without an address; write postgresql://user:password@host/database")
    if _PLACEHOLDER.search(text):
        raise ValueError(
            "has a placeholder such as [YOUR-PASSWORD] or **** where the password belongs, without brackets"
        )


def _with_address_in_query(url: URL, query: dict[str, str]) -> URL:
    """Return the address with the parts that libpq also takes as parameters; these are taken out of the query."""
    if "host" in query:
        url = url.set(host=query.pop("host"))
    if not url.password and "password" in query:
        url = url.set(password=query.pop("password"))
    if not url.username and "user" in query:
        url = url.set(username=query.pop("user"))
    if not url.database and "dbname" in query:
        url = url.set(database=query.pop("dbname"))
    port = query.pop("port", "")
    if port.isdecimal():
        url = url.set(port=int(port))
    elif port:
        raise ValueError("must name one host; a port must be from 1 to 65535")
    return url.set(host=unquote(url.host)) if url.host else url


def _postgresql(url: URL, query: dict[str, str], *, pooled: bool | None) -> Dsn:
    host = url.host or ""
    for name in _WITHOUT_EFFECT:
        query.pop(name, None)
    caches_nothing = [query.pop(name, "").lower() in values for name, values in _CACHES_NOTHING.items()]
    if pooled is None:
        pooled = _shows_pooler(host, url.port) or any(caches_nothing)
    parameters: dict[str, Any] = {"timeout": _connect_timeout(query.pop("connect_timeout", None))}
    tls = _tls(
        _ssl_mode(query.pop("sslmode", None), query.pop("ssl", None), query.pop("sslaccept", None)),
        query.pop("sslrootcert", None),
        query.pop("channel_binding", None),
    )
    if tls is not None and not host.startswith("/"):  # A Unix socket is not encrypted, whatever the string says.
        parameters["ssl"] = tls
    server_settings = _options(query.pop("options", ""), host)
    server_settings |= _search_path(query, pooled=pooled)
    query.pop("fallback_application_name", None)
    if "application_name" in query:
        server_settings["application_name"] = query.pop("application_name")
    if pooled and (refused := {name for name in server_settings if name.lower() not in _POOLER_SETTINGS}):
        raise ValueError(
            f"has options that a pooler in transaction mode refuses: {', '.join(sorted(refused))}; use a direct connection, "
            "or leave them out and run ALTER ROLE … SET"
        )
    if server_settings:
        parameters["server_settings"] = server_settings
    if query.get("client_encoding", "utf8").lower() in {"utf8", "utf-8", "auto"}:
        query.pop("client_encoding", None)
    if query:
        raise ValueError(f"has parameters that are not supported here: {', '.join(sorted(query))}")
    return Dsn(url, parameters, pooled)


def _shows_pooler(host: str, port: int | None) -> bool:
    label = host.partition(".")[0]
    of_the_port = port in _POOLER_PORTS and host.endswith(_POOLER_PORTS[port])
    return label.endswith("-pooler") or label == "pgbouncer" or host in _DIRECT_HOSTS or of_the_port


def _search_path(query: dict[str, str], *, pooled: bool) -> dict[str, str]:
    """Return the server setting for Prisma's or JDBC's name of a schema, which is taken out of the query."""
    schemas = [query.pop(name) for name in _SCHEMA_PARAMETERS if name in query]
    if not schemas or schemas[-1] == "public":
        return {}
    if pooled:
        raise ValueError(
            "names a schema, which a pooler in transaction mode forgets; use a direct connection, "
            "or leave it out and run ALTER ROLE … SET search_path"
        )
    name = schemas[-1]
    return {"search_path": name if re.fullmatch("[a-z_][a-z0-9_]*", name) else '"' + name.replace('"', '""') + '"'}


def _connect_timeout(seconds: str | None) -> float | None:
    """Return seconds, or None for no limit, which is zero in libpq."""
    if seconds is None:
        return CONNECT_TIMEOUT_SECONDS
    if not re.fullmatch(r"\d{1,6}", seconds):
        raise ValueError("has a connect_timeout that is not a whole number of seconds")
    return float(seconds) or None


def _ssl_mode(sslmode: str | None, ssl_parameter: str | None, sslaccept: str | None) -> str | None:
    """Return libpq's name for what the parameters ask for; the strictest of them counts."""
    given = [mode.lower() for mode in (sslmode, ssl_parameter) if mode is not None]
    modes = [_SSL_MODES_OF_OTHERS.get(mode, mode) for mode in given]
    if sslaccept == "strict":  # Prisma's.
        modes.append("verify-full")
    if any(mode not in _SSL_MODES for mode in modes):
        raise ValueError(f"has an unknown sslmode; use one of {', '.join(_SSL_MODES)}")
    return max(modes, key=_SSL_MODES.index, default=None)


def _tls(mode: str | None, root_certificate: str | None, channel_binding: str | None) -> ssl.SSLContext | str | None:
    """Return asyncpg's `ssl` argument; None means its default, which is `prefer` as in libpq."""
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
    # Python 3.13 sets this flag, and refuses certificates of private authorities that libpq accepts.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _options(options: str, host: str) -> dict[str, str]:
    """Return the server settings in libpq's `options`, in the form `-c name=value` or `--name=value`.

    A backslash takes a blank into a value. Neon's `endpoint=…` is left out: only clients without SNI need it, and asyncpg has
    SNI. Supabase's pooler finds the project by `reference=…` and gets it as it is; no other server knows what it means.
    """
    settings: dict[str, str] = {}
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|[^\s\\])+", options)]
    while words:
        word = words.pop(0)
        is_setting = word.startswith(("-c", "--"))
        if word == "-c" and words:
            word = words.pop(0)
        elif is_setting:
            word = word[2:]
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError("has options that are not of the form -c name=value")
        if is_setting:
            settings[name.replace("-", "_")] = value
        elif name == "reference" and host.endswith((".supabase.com", ".supabase.co")):
            settings["options"] = word
        elif name not in {"endpoint", "project", "reference"}:
            raise ValueError(f"has an option that is not supported here: {name}")
    return settings
