"""The databases that the tests of a process use one after the other, with connections that outlive a test.

PostgreSQL takes longer to open a connection than to answer what most tests ask.
"""

from typing import override

from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app import dsn
from app.database import Database


class _KeptDatabase(Database):
    @override
    async def migrate(self) -> None:
        """Do nothing: whoever keeps a database has migrated it."""

    @override
    async def close(self) -> None:
        """Leave that to the end of all tests."""

    async def close_at_last(self) -> None:
        await super().close()


_dsns: dict[str, dsn.Dsn] = {}
_databases: dict[tuple[str, int], _KeptDatabase] = {}
_engines: dict[str, AsyncEngine] = {}


def keep(url: str) -> None:
    """Keep connections to this database from now on."""
    if url not in _dsns:
        _dsns[url] = dsn.parse(url)


def is_kept(url: str) -> bool:
    return url in _dsns


def database(parsed: dsn.Dsn, *, pool_size: int) -> Database:
    """Return what a service uses, with the connections of the test before if they are kept."""
    address = next((url for url, kept in _dsns.items() if kept == parsed), None)
    if address is None:
        return Database(parsed, pool_size=pool_size)
    if (address, pool_size) not in _databases:
        _databases[address, pool_size] = _KeptDatabase(parsed, pool_size=pool_size)
    return _databases[address, pool_size]


def engine(url: str) -> AsyncEngine:
    """Return an engine beside the service's, for a database that is kept."""
    if url not in _engines:
        parsed = _dsns[url]
        _engines[url] = create_async_engine(parsed.url, connect_args=parsed.connect_args, pool_pre_ping=True)
    return _engines[url]


def with_own_connections(url: str) -> str:
    """Return another spelling of the address, whose connections no other test uses."""
    return make_url(url).update_query_dict({"application_name": "own"}).render_as_string(hide_password=False)


async def close() -> None:
    """Close every connection."""
    for kept in _databases.values():
        await kept.close_at_last()
    for each in _engines.values():
        await each.dispose()
