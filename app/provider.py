"""The provider's server: the client that asks it, and bounds for what it may send."""

import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, override
from urllib.request import getproxies

import httpx2
from aiohttp import ClientError, http_exceptions
from openai import AsyncOpenAI, DefaultAioHttpClient
from pydantic import HttpUrl, ValidationError

from app.config import Settings, SettingsError
from app.failures import LONGEST_RETRY_WAIT_SECONDS, QUOTA_CODES, cause_of, is_timeout, wait_seconds
from app.offline import OfflineTransport

_MOST_BYTES, _MOST_ERROR_BYTES = 128 * 1024 * 1024, 1024 * 1024
"""How long the body of an answer, and that of an error, may be after it is unpacked."""
_UNPACKED_BYTES = 64 * 1024
"""How much is unpacked at once."""
_ZIPPED = frozenset({"gzip", "x-gzip", "deflate"})
_GZIP_OR_ZLIB, _DEFLATE = 47, -15


def openai_client(settings: Settings) -> AsyncOpenAI:
    """Return the SDK's client for the server that the settings name; without a key, the offline stand-in answers it.

    Raises SettingsError if a proxy or certificates that the environment names cannot be used.
    """
    client = AsyncOpenAI(
        api_key=settings.openai_api_key.get_secret_value() if settings.openai_api_key else "offline",
        base_url=settings.openai_base_url,
        timeout=settings.openai_timeout_seconds,
        max_retries=settings.openai_max_retries,
        http_client=_http_client(settings),
    )
    # The SDK takes these from the environment as they are; the settings hold them without what pasting adds.
    client.organization, client.project = settings.openai_org_id, settings.openai_project_id
    client._custom_headers = settings.openai_headers  # noqa: SLF001  # There is no other way.
    return client


def endpoint(client: AsyncOpenAI, path: str) -> str:
    """Return the address of one of the API's endpoints, with the base URL's query."""
    base_url = client.base_url
    return str(base_url.copy_with(path=f"{base_url.path.rstrip('/')}/{path}"))


def _http_client(settings: Settings) -> httpx2.AsyncClient:
    """Return the SDK's HTTP client; raises SettingsError if the environment's proxies or certificates cannot be used."""
    try:
        for scheme, proxy in getproxies().items():
            if scheme in {"http", "https", "all"}:
                HttpUrl(proxy if "://" in proxy else f"http://{proxy}")
        options: dict[str, Any] = {
            "event_hooks": {"response": [_forbid_vain_retries]},
            "follow_redirects": False,  # A prompt goes to no server that the operator has not named.
            "limits": httpx2.Limits(
                max_connections=settings.max_concurrent_turns, max_keepalive_connections=settings.max_concurrent_turns
            ),
        }
        if settings.openai_api_key is None:
            options["transport"] = OfflineTransport()
        return _HttpClient(**options)
    except ValidationError:
        cause = "it is not an address such as http://proxy.example:3128"
    except (OSError, ImportError, ValueError, httpx2.InvalidURL) as error:
        cause = str(error)
    raise SettingsError(
        "The service cannot start: a proxy (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) or the certificates (SSL_CERT_FILE, "
        f"SSL_CERT_DIR) that the environment names cannot be used: {cause}"
    )


async def _forbid_vain_retries(response: httpx2.Response) -> None:
    """Keep the SDK, which retries embeddings, from long waits and from retries that cannot help."""
    wait = wait_seconds(response.headers)
    is_vain = wait is not None and wait > LONGEST_RETRY_WAIT_SECONDS
    if response.status_code == HTTPStatus.TOO_MANY_REQUESTS and not is_vain:
        await response.aread()
        is_vain = bool(cause_of(response).codes & QUOTA_CODES)
    if is_vain:
        response.headers["x-should-retry"] = "false"


class _HttpClient(DefaultAioHttpClient):
    """The SDK's client on aiohttp, whose transports are bounded."""

    @override
    def _init_transport(self, *args: Any, **kwargs: Any) -> httpx2.AsyncBaseTransport:
        return _BoundedTransport(super()._init_transport(*args, **kwargs))

    @override
    def _init_proxy_transport(self, *args: Any, **kwargs: Any) -> httpx2.AsyncBaseTransport:
        return _BoundedTransport(super()._init_proxy_transport(*args, **kwargs))


class _BoundedTransport(httpx2.AsyncBaseTransport):
    """Carries requests, and raises nothing but httpx2's errors; a body comes unpacked, a little at a time."""

    def __init__(self, transport: httpx2.AsyncBaseTransport) -> None:
        self._transport = transport

    @override
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers["Accept-Encoding"] = "gzip, deflate"
        with _httpx_errors(request):
            response = await self._transport.handle_async_request(request)
        response.stream = _BoundedBody(response, request)
        return response

    @override
    async def aclose(self) -> None:
        await self._transport.aclose()


class _BoundedBody(httpx2.AsyncByteStream):
    def __init__(self, response: httpx2.Response, request: httpx2.Request) -> None:
        self._body, self._request, self._is_answer = response.stream, request, response.is_success
        self._encoding = response.headers.pop("content-encoding", "identity").strip().lower()

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        unpack = _unpacker(self._encoding)
        room = _MOST_BYTES if self._is_answer else _MOST_ERROR_BYTES
        with _httpx_errors(self._request):
            async for data in self._body:  # type: ignore[union-attr]  # The transport is asynchronous, and so is its stream.
                for piece in unpack(data):
                    room -= len(piece)
                    if room < 0 and self._is_answer:
                        raise httpx2.ReadError("The body is too long.", request=self._request)
                    if room < 0:
                        return
                    yield piece

    @override
    async def aclose(self) -> None:
        with _httpx_errors(self._request):
            await self._body.aclose()  # type: ignore[union-attr]  # As above.


def _unpacker(encoding: str) -> Callable[[bytes], Iterable[bytes]]:
    """Return what unpacks a body, as much of it at once as memory should hold; raises DecodingError for other encodings."""
    if encoding in {"", "identity"}:
        return lambda data: (data,)
    if encoding not in _ZIPPED:
        raise httpx2.DecodingError(f"The body is encoded as {encoding[:40]}.")
    unzipping = zlib.decompressobj(_GZIP_OR_ZLIB)

    def unzip(data: bytes) -> Iterator[bytes]:
        nonlocal unzipping
        while data and not unzipping.eof:
            try:
                yield unzipping.decompress(data, _UNPACKED_BYTES)
            except zlib.error:
                if encoding != "deflate" or unzipping.unconsumed_tail:
                    raise
                unzipping = zlib.decompressobj(_DEFLATE)  # What some servers call deflate has no header.
                yield unzipping.decompress(data, _UNPACKED_BYTES)
            data = unzipping.unconsumed_tail

    return unzip


@contextmanager
def _httpx_errors(request: httpx2.Request) -> Iterator[None]:
    """Raise httpx2's errors in place of aiohttp's and zlib's; to aiohttp's transport, a refused connection is a timeout."""
    try:
        yield
    except httpx2.TimeoutException as error:
        if is_timeout(error):
            raise
        raise httpx2.ConnectError(str(error.__cause__), request=request) from error.__cause__
    except (ClientError, http_exceptions.HttpProcessingError, zlib.error) as error:
        raise httpx2.RemoteProtocolError(str(error), request=request) from error
