"""The model: the client of the OpenAI API, one deadline for each answer, and what its failures mean to us."""

import asyncio
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast, override
from urllib.request import getproxies

import httpx2
from openai import APIStatusError, AsyncOpenAI, AsyncStream, DefaultAioHttpClient, OpenAIError
from opentelemetry.trace import Span, SpanKind, StatusCode, get_tracer
from pydantic import HttpUrl, ValidationError

from app.completions import CompletionReader, ProviderError, provider_error
from app.config import Settings, SettingsError
from app.errors import (
    ModelError,
    ModelRateLimitError,
    ModelRefusedError,
    ModelTimeoutError,
    ModelUnavailableError,
)
from app.logs import Untrusted, keep_out_of_log, milliseconds
from app.offline import OfflineTransport
from app.prompt import PromptMessage

logger = logging.getLogger(__name__)
_tracer = get_tracer("book-chat")  # FastAPI has the API; without a provider, a span is nothing.

LONGEST_RETRY_WAIT_SECONDS = 2.0
USAGE_WAIT_SECONDS = 1.8
"""How long to wait for the number of tokens after the model has said how its answer ended.

Some servers say so with every piece, so this is also how long such a model may pause.
"""
DRAIN_SECONDS = 0.1
"""How long to wait for the end of a finished body; after it, the connection can be used again."""

FAIR_SHARE_BYTES = 2_048
"""How much of a streamed answer is read before other requests are served."""

_QUOTA_CODES = frozenset(
    {
        *("insufficient_quota", "exceeded_current_quota_error", "insufficient_balance", "insufficient_credits"),
        *("billing_hard_limit_reached", "billing_not_active"),
    }
)
_OPERATOR_CODES = frozenset({"401", "402", "403", "404", "invalid_api_key", "model_not_found", *_QUOTA_CODES})
"""Errors that only the operator can repair."""
_OPERATOR_MESSAGE = re.compile("api[ -]?key")
_BUSY_CODES = frozenset(
    {
        *("429", "529", "rate_limit_exceeded", "rate_limit_error", "resource_exhausted", "too_many_requests"),
        *("overloaded_error", "engine_overloaded_error", "capacity_exceeded", "slow_down"),
    }
)
_REFUSAL_CODES = frozenset(
    {"content_filter", "content_policy_violation", "data_inspection_failed", "datainspectionfailed", "invalid_prompt"}
)
_REFUSAL_MESSAGE = re.compile("content (management )?(filter|policy)|content exists risk|moderation|flagged")


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


@dataclass(frozen=True)
class Completion:
    """What the model said, and what it took."""

    text: str
    model: str
    duration_ms: int
    prompt_tokens: int | None
    completion_tokens: int | None
    """None if the server does not count tokens."""


class LanguageModel:
    """Answers prompts through the official SDK: from the OpenAI API, or from the offline stand-in without a key.

    The SDK sends and retries. `completions.py` reads what comes back: the SDK's `chat.completions.create` would transform every
    message and build a model of every piece of the answer, which takes as long as the rest of the call.
    """

    def __init__(self, settings: Settings, spend: Callable[[int], None] | None = None) -> None:
        """Raise SettingsError if a proxy or certificates that the environment names cannot be used.

        `spend` is told how many tokens each answer costs: if the server does not count them, a quarter of the bytes.
        """
        self.name = settings.openai_model
        self._spend = spend
        self._deadline = settings.openai_timeout_seconds
        self._options = settings.openai_options
        stream_options = self._options.pop("stream_options", {"include_usage": True})
        self._stream_options = {"stream_options": stream_options} if stream_options else {}
        self._stream_options_are_known = False
        self._client = openai_client(settings)
        self._url = endpoint(self._client, "chat/completions")

    async def answer(
        self, prompt: Sequence[PromptMessage], on_delta: Callable[[str], None] | None = None
    ) -> Completion:
        """Return the model's whole answer, whose text is never blank; with `on_delta`, pass on each piece as it arrives.

        Raises ModelTimeoutError at the deadline, ModelRateLimitError when the provider is too busy, ModelRefusedError when it
        will not answer this prompt, ModelUnavailableError when it cannot answer any, and ModelError for all other failures.
        """
        keep_out_of_log(*(message["content"] for message in prompt if message["role"] != "system"))
        async with self._call(prompt) as reader:
            body = {"model": self.name, **self._options, "messages": prompt}
            if on_delta:
                await self._stream(reader, body, on_delta)
            else:
                response = await self._client.post(self._url, cast_to=httpx2.Response, body=body)
                reader.trace(response)
                reader.feed(response.content)
                reader.close()
        prompt_tokens, completion_tokens = map(reader.usage.get, ("prompt_tokens", "completion_tokens"))
        if prompt_tokens is None or completion_tokens is None:
            tokens = sum(len(text.encode()) for text in (reader.text, *(message["content"] for message in prompt))) // 4
        else:
            tokens = prompt_tokens + completion_tokens
        if self._spend:
            self._spend(tokens)
        return Completion(
            reader.text,
            self.name,
            round(reader.duration_ms),
            prompt_tokens,
            completion_tokens,
        )

    async def _stream(self, reader: "_TracedReader", body: dict[str, Any], on_delta: Callable[[str], None]) -> None:
        response = await self._begin_stream({**body, "stream": True})
        reader.trace(response)
        cause: Exception | None = None
        try:
            async with asyncio.timeout(None) as patience:
                async for data in _in_fair_shares(response):
                    heard = reader.choices
                    for piece in reader.feed(data):
                        on_delta(piece)
                    patience.reschedule(_end_of_patience(reader, patience.when(), is_heard=reader.choices > heard))
        except (TimeoutError, httpx2.HTTPError) as error:
            cause = error
        finally:
            await response.aclose()
        pieces = reader.close()
        # The answer can be complete, even if the end of its body is missing.
        if cause and not reader.is_finished:
            raise cause
        for piece in pieces:
            on_delta(piece)

    async def _begin_stream(self, body: dict[str, Any]) -> httpx2.Response:
        """Send the request; if the server refuses the option that asks for the number of tokens, send it without."""
        options = self._stream_options
        try:
            response = await self._post_for_stream({**body, **options})
        except APIStatusError as error:
            # Not every server names the option that it refuses; behind a router there can be several servers.
            cause = _cause(error)
            is_suspect = not self._stream_options_are_known or "stream_options" in (cause.message or "")
            may_help = options and is_suspect and error.status_code in {400, 422}
            if not may_help or isinstance(_meaning(cause), ModelRefusedError):
                raise
            response = await self._post_for_stream(body)
            self._stream_options = {}
        self._stream_options_are_known = True
        return response

    async def _post_for_stream(self, body: dict[str, Any]) -> httpx2.Response:
        response = await self._client.post(
            self._url, cast_to=httpx2.Response, body=body, stream=True, stream_cls=AsyncStream[Any]
        )
        # For this type the SDK returns the response itself, unread, and its annotation is wrong.
        return cast("httpx2.Response", response)

    @asynccontextmanager
    async def _call(self, prompt: Sequence[PromptMessage]) -> AsyncIterator["_TracedReader"]:
        """Stop one call at its deadline, write its `openai.call` record, and raise our errors for its failures."""
        reader = _TracedReader()
        status: str | int = "cancelled"
        error: ProviderError | None = None
        span = _tracer.start_span(
            f"chat {self.name}",
            kind=SpanKind.CLIENT,
            attributes={"gen_ai.operation.name": "chat", "gen_ai.request.model": self.name},
        )
        try:
            async with asyncio.timeout(self._deadline) as limit:
                reader.deadline = limit.when() or reader.deadline
                yield reader
            status, error = reader.outcome, reader.error
            if status != "ok":
                raise _failure(reader)
        except TimeoutError as cause:
            status = "timeout"
            raise ModelTimeoutError from cause
        except APIStatusError as cause:
            status, error = cause.status_code, _cause(cause)
            reader.trace(cause.response)
            raise _meaning(error, status=cause.status_code, retry_after=_retry_after(cause.response.headers)) from cause
        except (OpenAIError, httpx2.HTTPError) as cause:
            if _is_timeout(cause):
                status = "timeout"
                raise ModelTimeoutError from cause
            status = type(cause).__name__
            raise ModelError from cause
        finally:
            keep_out_of_log(reader.text)
            _end_span(span, reader, status)
            fields = {
                "model": self.name,
                "messages": len(prompt),
                "duration_ms": reader.duration_ms,
                "status": status,
                "finish_reason": reader.finish_reason and Untrusted(reader.finish_reason),
                "provider_code": error and error.code and Untrusted(error.code),
                "provider_message": error and error.message and Untrusted(error.message),
                "upstream_request_id": reader.request_id,
                **reader.usage,
            }
            logger.info(
                "openai.call", extra={"fields": {name: value for name, value in fields.items() if value is not None}}
            )

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()


def _end_span(span: Span, reader: CompletionReader, status: str | int) -> None:
    """End the call's span with figures alone: neither prompt nor answer, nor what a provider says of them."""
    names = {"prompt_tokens": "gen_ai.usage.input_tokens", "completion_tokens": "gen_ai.usage.output_tokens"}
    span.set_attributes({name: reader.usage[key] for key, name in names.items() if key in reader.usage})
    if status != "ok":
        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)
    span.end()


def _end_of_patience(reader: "_TracedReader", until: float | None, *, is_heard: bool) -> float | None:
    """Return until when to read on: for ever before the answer's end, and after it for as long as the model is still heard."""
    if not reader.is_finished:
        return None
    now = asyncio.get_running_loop().time()
    if reader.is_done:
        return min(until or math.inf, now + DRAIN_SECONDS)
    end = now + USAGE_WAIT_SECONDS if is_heard or until is None else until
    # The answer is not to be lost to the deadline of the call.
    return min(end, reader.deadline - DRAIN_SECONDS)


async def _in_fair_shares(response: httpx2.Response) -> AsyncIterator[bytes]:
    """Yield the body as it comes; what comes faster than it is read is yielded in shares, between which others have a turn."""
    async for data in response.aiter_bytes():
        for start in range(0, len(data), FAIR_SHARE_BYTES):
            yield data[start : start + FAIR_SHARE_BYTES]
            if len(data) > FAIR_SHARE_BYTES:
                await asyncio.sleep(0)


class _TracedReader(CompletionReader):
    """A reader that also has the provider's id of the request, and the call's duration and its deadline in the loop's time."""

    request_id: str | None = None
    deadline = math.inf

    def __init__(self) -> None:
        super().__init__()
        self._started = time.perf_counter()

    @property
    def duration_ms(self) -> float:
        return milliseconds(time.perf_counter() - self._started)

    def trace(self, response: httpx2.Response) -> None:
        self.request_id = response.headers.get("x-request-id")


class _HttpClient(DefaultAioHttpClient):
    """The SDK's client on aiohttp, whose transport calls a refused connection a timeout."""

    @override
    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        try:
            return await super().send(request, **options)
        except httpx2.TimeoutException as error:
            if _is_timeout(error):
                raise
            raise httpx2.ConnectError(str(error.__cause__), request=request) from error.__cause__


def _is_timeout(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, TimeoutError) or _is_timeout(error.__cause__))


def _http_client(settings: Settings) -> httpx2.AsyncClient:
    """Return the SDK's HTTP client; raises SettingsError if the environment's proxies or certificates cannot be used."""
    try:
        for scheme, proxy in getproxies().items():
            if scheme in {"http", "https", "all"}:
                HttpUrl(proxy if "://" in proxy else f"http://{proxy}")
        options: dict[str, Any] = {
            "event_hooks": {"response": [_forbid_vain_retries]},
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
    """Keep the SDK from long waits and from retries that cannot help: the reader is told at once, and decides."""
    wait = _wait_seconds(response.headers)
    is_vain = wait is not None and wait > LONGEST_RETRY_WAIT_SECONDS
    if response.status_code == HTTPStatus.TOO_MANY_REQUESTS and not is_vain:
        await response.aread()
        is_vain = bool(provider_error(_parsed(response)).codes & _QUOTA_CODES)
    if is_vain:
        response.headers["x-should-retry"] = "false"


def _cause(error: APIStatusError) -> ProviderError:
    """Return what the response says of the error; the SDK keeps only a part of it."""
    return provider_error(_parsed(error.response))


def _parsed(response: httpx2.Response) -> Any:
    try:
        return response.json()
    except (ValueError, RecursionError):
        return response.text


def _wait_seconds(headers: httpx2.Headers) -> float | None:
    """Return how long the provider asks to wait, None if it does not say; an unknown form counts as endless."""
    for name, divisor in (("retry-after-ms", 1000), ("retry-after", 1)):
        if value := headers.get(name):
            return float(value) / divisor if re.fullmatch(r"\d+(\.\d+)?", value) else math.inf
    return None


def _retry_after(headers: httpx2.Headers) -> str | None:
    """Return the value of our Retry-After: the provider's as it is, or its milliseconds as whole seconds."""
    if value := headers.get("retry-after"):
        return value
    seconds = _wait_seconds(headers)
    return None if seconds is None or math.isinf(seconds) else str(math.ceil(seconds))


def _failure(reader: CompletionReader) -> ModelError:
    """Return our error for a body without an answer."""
    match reader.outcome:
        case "error" if reader.error:
            return _meaning(reader.error)
        case "refusal":
            return ModelRefusedError()
        case "content_filter" if not reader.text.strip():
            return ModelRefusedError()
        case _:
            return ModelError()


def _meaning(error: ProviderError, *, status: int | None = None, retry_after: str | None = None) -> ModelError:
    """Return our error for a provider's error, whose code can also be an HTTP status."""
    codes = {*error.codes, str(status)}
    message = (error.message or "").lower()
    if codes & _REFUSAL_CODES or (_REFUSAL_MESSAGE.search(message) and not _is_passing(codes)):
        return ModelRefusedError()
    if codes & _OPERATOR_CODES:
        return ModelUnavailableError()
    if codes & _BUSY_CODES:  # A limit can be that of "your API key".
        return ModelRateLimitError(retry_after=retry_after)
    if _OPERATOR_MESSAGE.search(message):
        return ModelUnavailableError()
    return ModelError(retry_after=retry_after)


def _is_passing(codes: set[str]) -> bool:
    """Whether the provider itself is busy or broken, whatever words its message has."""
    return bool(codes & _BUSY_CODES) or any(re.fullmatch(r"5\d\d", code) for code in codes)
