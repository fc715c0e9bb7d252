"""Asks a site for its addresses: patiently, one answer within its limits, and at the pace that its robots.txt asks for."""

import asyncio
import re
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urldefrag, urljoin

import httpx2

ROBOT = "book-chat"
"""The name that robots.txt can give rules for."""
REDIRECTS = 5
"""How many redirects are followed, one after the other."""
TIMEOUT = httpx2.Timeout(30.0, connect=10.0)
ANSWER_SECONDS = 120.0
"""How long one answer may take, for servers that never stop sending."""

_ATTEMPTS = 4
_MAX_WAIT_SECONDS = 60.0
_REDIRECTING = frozenset({301, 302, 303, 307, 308})
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})


class GoneError(Exception):
    """There is no such page for us; the message says why, in words that follow its address."""


class FailedError(Exception):
    """The page could not be had this time; the message says why, in words that follow its address."""


@dataclass(frozen=True)
class Response:
    """What a site answered."""

    status: int
    headers: httpx2.Headers
    content: bytes

    @property
    def is_success(self) -> bool:
        """Whether it has the content that was asked for."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES


class Client:
    """Asks one site, several addresses at a time."""

    def __init__(self, pause: float) -> None:
        self.delay = 0.0
        """How many seconds lie between two requests."""
        self._pause = pause
        self._turn = asyncio.Lock()
        self._client = httpx2.AsyncClient(
            headers={"User-Agent": user_agent(), "Accept": "text/html,application/xhtml+xml,*/*;q=0.5"},
            timeout=TIMEOUT,
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def ask(self, url: str, limit: int, headers: Mapping[str, str] | None = None) -> Response:
        """Ask for an address until there is an answer that is no passing failure; raises FailedError and GoneError."""
        reason = ""
        for attempt in range(_ATTEMPTS):
            await self._wait_for_turn()
            wait = None
            try:
                async with (
                    asyncio.timeout(ANSWER_SECONDS),
                    self._client.stream("GET", url, headers=dict(headers or {})) as response,
                ):
                    if response.status_code not in _TRANSIENT:
                        content = await content_of(response, limit) if response.is_success else b""
                        return Response(response.status_code, response.headers, content)
                    reason, wait = f"answered {response.status_code}", _retry_after(response)
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
                raise GoneError(f"is no address: {error}") from error
            except (httpx2.HTTPError, TimeoutError) as error:
                reason = f"cannot be reached ({named(error)})"
            if attempt + 1 < _ATTEMPTS:
                await asyncio.sleep(min(self._pause * 2.0**attempt if wait is None else wait, _MAX_WAIT_SECONDS))
        raise FailedError(reason)

    async def _wait_for_turn(self) -> None:
        """Keep the distance between requests that robots.txt asks for."""
        if self.delay:
            async with self._turn:
                await asyncio.sleep(self.delay)


def user_agent() -> str:
    """Return what a site's log shows."""
    try:
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
        return f"{ROBOT}/{project['version']}"
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return ROBOT


def target_of(url: str, response: Response) -> str | None:
    """Return the address that this one redirects to; None if it redirects to none."""
    location = response.headers.get("location")
    return joined(url, location) if location and response.status in _REDIRECTING else None


def joined(url: str, link: str) -> str | None:
    """Return the address that a link leads to from this one, without its fragment; None if it is none."""
    try:
        return urldefrag(urljoin(url, link.strip())).url
    except ValueError:
        return None


async def content_of(response: httpx2.Response, limit: int) -> bytes:
    """Return the body, unzipped; raises GoneError if it is longer than the limit."""
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > limit:
            raise GoneError(f"is larger than {limit / 1_000_000:g} MB")
        parts.append(part)
    return b"".join(parts)


def charset_of(headers: httpx2.Headers) -> str | None:
    """Return what the server calls the encoding of its answer."""
    found = re.search(r"charset\s*=\s*[\"']?([\w.:-]+)", headers.get("content-type", ""), re.IGNORECASE)
    return found[1] if found else None


def _retry_after(response: httpx2.Response) -> float | None:
    value = response.headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def named(error: Exception) -> str:
    """Return what went wrong, by its kind if it says nothing itself."""
    return str(error) or type(error).__name__
