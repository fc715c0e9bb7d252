"""How often one reader may ask."""

import asyncio
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable, Sequence
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


ADDRESS_FACTOR = 10
"""How many readers' questions may come from one address: that of a school, or of one who makes up readers."""
_PROXY_HEADERS = ("x-forwarded-for", "forwarded", "x-real-ip", "cf-connecting-ip")


class RateLimiter:
    """Counts the questions of each reader in moving windows: in this process, or in Redis for all processes.

    A reader is known by the token, or else by the address. All readers at one address together may ask ten times as much.
    """

    def __init__(self, settings: Settings) -> None:
        self._header = settings.client_address_header
        self._rates: list[Any] = []
        self._storage: Any = None
        self._proxy_is_known = self._header is not None
        if settings.rate_limit is None:
            return
        # A service without a limit starts faster without them.
        from limits import parse_many  # noqa: PLC0415
        from limits.aio.strategies import MovingWindowRateLimiter  # noqa: PLC0415
        from limits.storage import storage_from_string  # noqa: PLC0415

        url = settings.rate_limit_storage.get_secret_value() if settings.rate_limit_storage else "memory://"
        options: dict[str, float | str | bool] = {} if url == "memory://" else _REDIS_OPTIONS
        self._rates = sorted(parse_many(settings.rate_limit), key=lambda rate: rate.get_expiry())
        self._ceilings = [type(rate)(ADDRESS_FACTOR * rate.amount, rate.multiples) for rate in self._rates]
        self._storage = storage_from_string(f"async+{url}", wrap_exceptions=True, **options)
        self._strategy = MovingWindowRateLimiter(self._storage)

    async def allowance(self, connection: HTTPConnection[Any], owner: str | None) -> Allowance:
        """Return the function that counts the reader's question, to be called when the question goes to the model.

        The owner is the digest of the reader's token.

        Raises RateLimitedError if the reader has no question left. Fail open: if Redis is down, nobody is limited.
        """
        if not self._rates:
            return _unlimited
        address = self._address(connection)
        windows = [(rate, owner or address) for rate in self._rates]
        windows += [(ceiling, f"all at {address}") for ceiling in self._ceilings]
        if not await self._demand(self._strategy.test, windows):
            return _unlimited

        async def count() -> None:
            # One after another, so that what a short rate refuses does not count in a longer one, nor for the whole address.
            for window in windows:
                await self._demand(self._strategy.hit, [window])

        return count

    async def _demand(self, allows: Callable[..., Awaitable[bool]], windows: Sequence[tuple[Any, str]]) -> bool:
        """Raise RateLimitedError if one of the windows has no question left; return False if Redis is down."""
        from limits.errors import StorageError  # noqa: PLC0415  # Imported by now.

        try:
            allowed = await asyncio.gather(*(allows(*window) for window in windows))
            full = [window for window, is_allowed in zip(windows, allowed, strict=True) if not is_allowed]
            stats = await asyncio.gather(*(self._strategy.get_window_stats(*window) for window in full))
        except StorageError as error:
            logger.warning("ratelimit.unavailable", exc_info=error)
            return False
        if not stats:
            return True
        reset_at = max(reset_at for reset_at, _ in stats)
        raise RateLimitedError(retry_after=str(max(1, math.ceil(reset_at - time.time()))))

    async def is_available(self) -> bool:
        """Whether what counts the questions answers."""
        return self._storage is None or bool(await self._storage.check())

    async def close(self) -> None:
        """Close the connections to Redis."""
        if hasattr(self._storage, "bridge"):
            await self._storage.bridge.get_connection().aclose()

    def _address(self, connection: HTTPConnection[Any]) -> str:
        """Return the reader's address: the header's last entry, since readers can send the others themselves."""
        forwarded = ",".join(connection.headers.getlist(self._header)) if self._header else ""
        direct = connection.client.host if connection.client else ""
        if not self._proxy_is_known:
            self._look_for_proxy(connection, direct)
        return _reader(forwarded.rpartition(",")[2].strip() or direct)

    def _look_for_proxy(self, connection: HTTPConnection[Any], direct: str) -> None:
        """Say once in the log that there is a proxy whose address all readers have, as far as this service knows."""
        named = {
            name: re.split(r"[^\w.:]+", connection.headers[name])
            for name in _PROXY_HEADERS
            if name in connection.headers
        }
        found = [name for name, addresses in named.items() if direct not in addresses]
        if found:
            self._proxy_is_known = True
            reason = "requests seem to come through a proxy, and then all readers count as one address"
            logger.warning(
                "ratelimit.proxy_found",
                extra={"fields": {"set": "CLIENT_ADDRESS_HEADER", "headers": found, "reason": reason}},
            )


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
