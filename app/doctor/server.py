"""The database's server: whether it can be reached, how far away it is, and what stands before it."""

import os
import socket
import ssl
import time
from contextlib import AsyncExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import text

from app.config import Settings
from app.database import Database, reason
from app.doctor.findings import Finding, Verdict
from app.dsn import Dsn
from app.errors import DatabaseError
from app.models import utc_now

FAR_MS = 10.0
"""From this round trip on, the database is not where the service is."""

SKEW_SECONDS = 2.0


def examine_file(dsn: Dsn, settings: Settings) -> tuple[Path | None, list[Finding]]:
    """Return the embedded database's file, if there is one by now, and what is found of it."""
    verdict: Verdict = "ok" if settings.development else "FAULT"
    if dsn.in_memory:
        said = "SQLite in memory: the book and all conversations are lost with the process. Set DATABASE_URL."
        return None, [Finding(verdict, "database", said)]
    path = Path(dsn.url.database or "").absolute()
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        return None, [
            Finding("FAULT", "database", f"{path} cannot be written. Create its folder for the service's user.")
        ]
    said = f"SQLite in {path}: for one machine whose disk stays. Otherwise set DATABASE_URL to a PostgreSQL."
    found = Finding("ok" if settings.development else "advice", "database", said)
    return path if path.is_file() else None, [found]


def unreachable(error: BaseException, dsn: Dsn) -> str:
    """Return why the database cannot be used, and what to do about it."""
    cause: BaseException | None = error
    while isinstance(cause, DatabaseError) and cause.__cause__:
        cause = cause.__cause__
    original = getattr(cause, "orig", None) or cause
    original = (getattr(original, "__cause__", None) or original) if not isinstance(original, OSError) else original
    host = dsn.url.host or "the file"
    for kinds, said in _UNREACHABLE:
        if isinstance(original, kinds):
            return said.format(host=host, reason=original)
    return f"{host} cannot be used: {reason(original or error)}"


_UNREACHABLE: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    (
        (TimeoutError,),
        "{host} does not answer. Allow connections from here in its firewall, or correct the host in DATABASE_URL.",
    ),
    (
        (ConnectionRefusedError,),
        "Nothing answers at {host}. Correct host and port in DATABASE_URL, or start the server.",
    ),
    ((socket.gaierror,), "There is no host {host}. Correct it in DATABASE_URL."),
    ((ssl.SSLError,), "TLS with {host} failed: {reason}. Correct sslmode or sslrootcert in DATABASE_URL."),
    (
        (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError),
        "{host} refuses the user or the password: {reason}. Copy DATABASE_URL again from your provider.",
    ),
    (
        (asyncpg.InvalidCatalogNameError,),
        "{host} has no such database: {reason}. Correct the last part of DATABASE_URL, or create the database.",
    ),
    (
        (asyncpg.TooManyConnectionsError,),
        "{host} has no connection left: {reason}. Lower DATABASE_POOL_SIZE, or use the provider's pooler.",
    ),
)

_SERVER = text("""
    SELECT current_setting('server_version') AS version, current_user AS role,
           current_setting('transaction_read_only') = 'on' AS only_reads, clock_timestamp() AS now
""")

_CONNECTIONS = text("""
    SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS server,
           (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS role,
           (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS database
""")


async def examine_server(database: Database, dsn: Dsn, settings: Settings, processes: int) -> list[Finding]:
    """Return what is found of the server; raises what a connection that cannot be had raises."""
    [server] = await database.execute((_SERVER, {}))
    skew = abs((server.now - utc_now()).total_seconds())
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(database.engine.connect()) for _ in range(2)]
        drivers: list[Any] = [(await each.get_raw_connection()).driver_connection for each in connections]
        first, second = drivers
        trip = await _round_trip(first)
        tls = first._transport.get_extra_info("ssl_object")  # noqa: SLF001  # asyncpg does not tell.
        is_shared = await _share_a_server(first, second)
    findings = [Finding("ok", "database", f"PostgreSQL {server.version} answers at {dsn.url.host}.")]
    if server.only_reads:
        findings.append(Finding("FAULT", "database", "This server only reads. Set DATABASE_URL to the primary one."))
    findings += [_distance(trip), _encryption(dsn, tls), _pooler(dsn, is_shared=is_shared)]
    if not (is_shared or dsn.pooled):
        findings += await _connections(database, settings, processes)
    if skew > SKEW_SECONDS + trip:
        said = f"Its clock and this one's differ by {skew:.0f} s. Set them by NTP: claims on questions compare them."
        findings.append(Finding("advice", "database", said))
    return findings


async def _round_trip(connection: Any) -> float:
    """Return the shortest of some round trips, in seconds."""
    trips = []
    for _ in range(5):
        started = time.perf_counter()
        await connection.execute("SELECT 1")
        trips.append(time.perf_counter() - started)
    return min(trips)


async def _share_a_server(first: Any, second: Any) -> bool:
    """Whether two of our connections are one of the server's: only a pooler in transaction mode does that."""
    for _ in range(3):
        process = await first.fetchval("SELECT pg_backend_pid()")
        async with second.transaction():
            if process == await second.fetchval("SELECT pg_backend_pid()"):
                return True
    return False


def _distance(trip: float) -> Finding:
    said = f"A round trip takes {1000 * trip:.1f} ms"
    if 1000 * trip < FAR_MS:
        return Finding("ok", "database", f"{said}.")
    return Finding(
        "advice", "database", f"{said}, and a turn waits for three. Run the service in the database's region."
    )


def _encryption(dsn: Dsn, tls: Any) -> Finding:
    if tls is None:
        if _is_near(dsn.url.host or ""):
            return Finding("ok", "database", "The connection is not encrypted, and stays in a private network.")
        return Finding("advice", "database", "The connection is not encrypted. Add ?sslmode=require to DATABASE_URL.")
    is_verified = tls.context.verify_mode == ssl.CERT_REQUIRED
    return Finding("ok", "database", f"{tls.version()}, {'with' if is_verified else 'without'} verified certificate.")


def _is_near(host: str) -> bool:
    try:
        return ip_address(host).is_private
    except ValueError:
        return host.startswith("/") or "." not in host or host.endswith((".internal", ".local", ".localhost"))


def _pooler(dsn: Dsn, *, is_shared: bool) -> Finding:
    if is_shared and not dsn.pooled:
        return Finding(
            "advice",
            "pooler",
            "A pooler in transaction mode stands before the server, which DATABASE_URL does not show. Set DATABASE_POOLED=true.",
        )
    if dsn.pooled:
        found = "" if is_shared else ", as far as DATABASE_URL or DATABASE_POOLED says"
        return Finding("ok", "pooler", f"A pooler in transaction mode stands before the server{found}.")
    return Finding("ok", "pooler", "The server is reached directly, or by a pooler in session mode.")


async def _connections(database: Database, settings: Settings, processes: int) -> list[Finding]:
    try:
        [limits] = await database.execute((_CONNECTIONS, {}))
    except DatabaseError:
        return [Finding("ok", "database", "The server does not tell how many connections it allows.")]
    most = min(limit for limit in limits if limit is not None and limit >= 0)
    wanted = settings.database_pool_size * processes
    said = f"{processes} process{'' if processes == 1 else 'es'} may open {wanted} connections, and the server allows {most}"
    if wanted <= most:
        return [Finding("ok", "database", f"{said}.")]
    fitting = max(1, most // processes)
    return [Finding("advice", "database", f"{said}. Set DATABASE_POOL_SIZE={fitting}, or use the provider's pooler.")]
