"""How often one reader may ask."""

import logging
import math
import time
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


class RateLimiter:
    """Counts the questions of each address over a moving window, in the process or in Redis for all of them."""

    def __init__(self, settings: Settings) -> None:
        self._header = settings.client_address_header
        self._rate = None
        self._storage: Any = None
        if settings.rate_limit is None:
            return
        # Only a service that limits pays for the import.
        from limits import parse  # noqa: PLC0415
        from limits.aio.strategies import MovingWindowRateLimiter  # noqa: PLC0415
        from limits.storage import storage_from_string  # noqa: PLC0415

        url = settings.rate_limit_storage.get_secret_value() if settings.rate_limit_storage else "memory://"
        options: dict[str, float | str | bool] = {} if url == "memory://" else _REDIS_OPTIONS
        self._rate = parse(settings.rate_limit)
        self._storage = storage_from_string(f"async+{url}", wrap_exceptions=True, **options)
        self._strategy = MovingWindowRateLimiter(self._storage)

    async def check(self, connection: HTTPConnection[Any]) -> None:
        """Count one question of the connection's address; raises RateLimitedError when there were too many."""
        if self._rate is None:
            return
        from limits.errors import StorageError  # noqa: PLC0415  # Imported by now.

        address = self._address(connection)
        try:
            if await self._strategy.hit(self._rate, address):
                return
            reset_at, _ = await self._strategy.get_window_stats(self._rate, address)
        except StorageError as error:
            # Readers go first: a store that is away limits nobody.
            logger.warning("ratelimit.unavailable", exc_info=error)
            return
        raise RateLimitedError(retry_after=str(max(1, math.ceil(reset_at - time.time()))))

    async def close(self) -> None:
        """Close the connections to Redis."""
        if hasattr(self._storage, "bridge"):
            await self._storage.bridge.get_connection().aclose()

    def _address(self, connection: HTTPConnection[Any]) -> str:
        """Return the reader's address; of a header's entries only the last is the platform's own, a reader can send any."""
        forwarded = ",".join(connection.headers.getlist(self._header)) if self._header else ""
        direct = connection.client.host if connection.client else ""
        return forwarded.rpartition(",")[2].strip() or direct
