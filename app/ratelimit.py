"""How often one reader may ask."""

import logging
import math
import re
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any

from starlette.requests import HTTPConnection

from app.config import Settings
from app.errors import RateLimitedError

logger = logging.getLogger(__name__)


_REDIS_OPTIONS: dict[str, float | str | bool] = {
    "implementation": "redispy",
    "socket_timeout": 1.0,
    "socket_connect_timeout": 1.0,
}


type Allowance = Callable[[], Awaitable[None]]
"""Counts one question of a reader; raises RateLimitedError if that is one too many."""


async def _unlimited() -> None:
    """Count nothing."""


class RateLimiter:
    """Counts the questions from each address in a moving window: in this process, or in Redis for all processes."""

    def __init__(self, settings: Settings) -> None:
        self._header = settings.client_address_header
        self._rate = None
        self._storage: Any = None
        if settings.rate_limit is None:
            return
        # A service without a limit starts faster without them.
        from limits import parse  # noqa: PLC0415
        from limits.aio.strategies import MovingWindowRateLimiter  # noqa: PLC0415
        from limits.storage import storage_from_string  # noqa: PLC0415

        url = settings.rate_limit_storage.get_secret_value() if settings.rate_limit_storage else "memory://"
        options: dict[str, float | str | bool] = {} if url == "memory://" else _REDIS_OPTIONS
        self._rate = parse(settings.rate_limit)
        self._storage = storage_from_string(f"async+{url}", wrap_exceptions=True, **options)
        self._strategy = MovingWindowRateLimiter(self._storage)

    async def allowance(self, connection: HTTPConnection[Any]) -> Allowance:
        """Return the function that counts the reader's question, to be called when the question goes to the model.

        Raises RateLimitedError if the reader has no question left. Fail open: if Redis is down, nobody is limited.
        """
        if self._rate is None:
            return _unlimited
        address = self._address(connection)
        if not await self._demand(self._strategy.test, address):
            return _unlimited

        async def count() -> None:
            await self._demand(self._strategy.hit, address)

        return count

    async def _demand(self, allows: Callable[..., Awaitable[bool]], address: str) -> bool:
        """Raise RateLimitedError if the address has no question left; return False if Redis is down."""
        from limits.errors import StorageError  # noqa: PLC0415  # Imported by now.

        rate: Any = self._rate
        try:
            if await allows(rate, address):
                return True
            reset_at, _ = await self._strategy.get_window_stats(rate, address)
        except StorageError as error:
            logger.warning("ratelimit.unavailable", exc_info=error)
            return False
        raise RateLimitedError(retry_after=str(max(1, math.ceil(reset_at - time.time()))))

    async def close(self) -> None:
        """Close the connections to Redis."""
        if hasattr(self._storage, "bridge"):
            await self._storage.bridge.get_connection().aclose()

    def _address(self, connection: HTTPConnection[Any]) -> str:
        """Return the reader's address: the header's last entry, since readers can send the others themselves."""
        forwarded = ",".join(connection.headers.getlist(self._header)) if self._header else ""
        direct = connection.client.host if connection.client else ""
        return _reader(forwarded.rpartition(",")[2].strip() or direct)


def _reader(address: str) -> str:
    """Return whom an address stands for, whatever its port: one reader has a whole /64 of IPv6, and IPv4 can be written as IPv6."""
    bare = re.sub(r"^\[(.*)\](?::\d+)?$|^([\d.]+):\d+$", r"\1\2", address)
    try:
        parsed = ip_address(bare.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped or IPv6Network((parsed, 64), strict=False))
    return str(parsed)
