"""The model: the client of the OpenAI API, one deadline for each answer, and what its failures mean to us."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from openai import (
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    AsyncStream,
    DefaultAsyncHttpx2Client,
    OpenAIError,
    RateLimitError,
)

from app.config import Settings
from app.errors import ModelError, ModelRateLimitError, ModelTimeoutError
from app.logs import keep_out_of_log, milliseconds
from app.offline import OfflineTransport
from app.prompt import PromptMessage

logger = logging.getLogger(__name__)

LONGEST_RETRY_WAIT_SECONDS = 2.0

_UNUSABLE = (AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What happens when the answer is no completion."""


class LanguageModel:
    """Answers prompts through the official SDK: from the OpenAI API, or from the offline stand-in without a key.

    The SDK sends and retries, and its failures are told apart here. Its `chat.completions.create` would walk every message
    to transform it and make a model of every piece of the answer, which takes as long as all the rest of the call.
    """

    def __init__(self, settings: Settings) -> None:
        self.name = settings.openai_model
        self._deadline = settings.openai_timeout_seconds
        self._options: dict[str, Any] = {}
        if settings.openai_reasoning_effort:
            self._options["reasoning_effort"] = settings.openai_reasoning_effort
        self._client = AsyncOpenAI(
            api_key=settings.openai_api_key.get_secret_value() if settings.openai_api_key else "offline",
            base_url=settings.openai_base_url,
            timeout=settings.openai_timeout_seconds,
            max_retries=settings.openai_max_retries,
            http_client=DefaultAsyncHttpx2Client(
                transport=None if settings.openai_api_key else OfflineTransport(),
                event_hooks={"response": [_leave_long_waits_to_the_reader]},
            ),
        )
        self._url = f"{self._client.base_url}chat/completions"

    async def answer(self, prompt: Sequence[PromptMessage], on_delta: Callable[[str], None] | None = None) -> str:
        """Return the model's whole answer, never blank; with `on_delta`, hand on each piece as it arrives.

        Raises ModelTimeoutError at the deadline, ModelRateLimitError when the provider turns the call away, and
        ModelError for everything else, among it a refusal, a stream that just stops, and what is no completion at all.
        """
        keep_out_of_log(*(message["content"] for message in prompt if message["role"] != "system"))
        async with self._call(prompt) as call:
            content, finish_reason = await (
                self._stream(call, prompt, on_delta) if on_delta else self._ask(call, prompt)
            )
            if finish_reason in {None, "content_filter"} or not content.strip():
                raise ModelError
        keep_out_of_log(content)
        return content

    async def _ask(self, call: "_Call", prompt: Sequence[PromptMessage]) -> tuple[str, str]:
        response = await self._client.post(self._url, cast_to=httpx2.Response, body=self._request(prompt))
        completion = response.json()
        call.trace(response)
        call.count(completion)
        choice = completion["choices"][0]
        return _storable(choice["message"].get("content") or ""), choice.get("finish_reason") or "stop"

    async def _stream(
        self, call: "_Call", prompt: Sequence[PromptMessage], on_delta: Callable[[str], None]
    ) -> tuple[str, str | None]:
        pieces: list[str] = []
        finish_reason = None
        body = {**self._request(prompt), "stream": True, "stream_options": {"include_usage": True}}
        async with await self._client.post(
            self._url, cast_to=object, body=body, stream=True, stream_cls=AsyncStream[object]
        ) as stream:
            call.trace(stream.response)
            chunk: Any  # Whatever the server sent.
            async for chunk in stream:
                call.count(chunk)
                for choice in chunk.get("choices") or ():
                    finish_reason = choice.get("finish_reason") or finish_reason
                    if content := (choice.get("delta") or {}).get("content"):
                        pieces.append(_storable(content))
                        on_delta(pieces[-1])
        return "".join(pieces), finish_reason

    def _request(self, prompt: Sequence[PromptMessage]) -> dict[str, Any]:
        return {"model": self.name, "messages": prompt, **self._options}

    @asynccontextmanager
    async def _call(self, prompt: Sequence[PromptMessage]) -> AsyncIterator["_Call"]:
        """Hold one call to its deadline, write its `openai.call` record, and raise its failures as ours."""
        call = _Call()
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._deadline):
                yield call
            call.fields["status"] = "ok"
        except (TimeoutError, APITimeoutError) as error:
            call.fields["status"] = "timeout"
            raise ModelTimeoutError from error
        except RateLimitError as error:
            call.fail(error)
            raise ModelRateLimitError(retry_after=_retry_after(error)) from error
        except APIStatusError as error:
            call.fail(error)
            raise ModelError(retry_after=_retry_after(error)) from error
        except (OpenAIError, httpx2.HTTPError) as error:
            call.fields["status"] = type(error).__name__
            raise ModelError from error
        except ModelError:
            call.fields["status"] = "unusable"
            raise
        except _UNUSABLE as error:
            call.fields["status"] = "unusable"
            raise ModelError from error
        finally:
            fields = {
                "model": self.name,
                "messages": len(prompt),
                "duration_ms": milliseconds(time.perf_counter() - started),
            }
            logger.info("openai.call", extra={"fields": fields | call.fields})

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()


class _Call:
    """What the `openai.call` record says of a call beyond its model, size and duration."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {"status": "cancelled"}

    def trace(self, response: httpx2.Response) -> None:
        self.fields["upstream_request_id"] = response.headers.get("x-request-id")

    def count(self, body: dict[str, Any]) -> None:
        usage = body.get("usage")
        for name in ("prompt_tokens", "completion_tokens"):
            if isinstance(usage, dict) and isinstance(count := usage.get(name), int):
                self.fields[name] = count

    def fail(self, error: APIStatusError) -> None:
        self.fields |= {"status": error.status_code, "upstream_request_id": error.request_id}


def _storable(content: str) -> str:
    """Replace what PostgreSQL or the wire could not carry: NUL and unpaired surrogates."""
    return re.sub("[\x00\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", content)


def _retry_after(error: APIStatusError) -> str | None:
    return error.response.headers.get("retry-after")


async def _leave_long_waits_to_the_reader(response: httpx2.Response) -> None:
    """Keep the SDK from sleeping through a long Retry-After: the reader is told, and decides."""
    seconds = response.headers.get("retry-after", "0")
    if not re.fullmatch(r"\d+(\.\d+)?", seconds) or float(seconds) > LONGEST_RETRY_WAIT_SECONDS:
        response.headers["x-should-retry"] = "false"
