"""The model: how it is asked for an answer, until there is one or none is to be had.

`LanguageModel.answer` is the whole policy. Before anything is shown, what may pass is tried again, and a conversation that the
model cannot hold is asked about without its oldest turns. Silence is waited out for a while, and every answer has an end. Each
attempt is paid and recorded. `provider.py` carries an attempt, `completions.py` reads it, `failures.py` says what went wrong.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx2
from openai import APIConnectionError, APIStatusError, AsyncStream, OpenAIError
from opentelemetry.trace import SpanKind, StatusCode, get_tracer

from app.completions import CompletionReader
from app.config import Settings
from app.errors import ModelTimeoutError
from app.failures import (
    LONGEST_RETRY_WAIT_SECONDS,
    Failure,
    failure_of_answer,
    failure_of_call,
    failure_of_response,
    is_timeout,
)
from app.logs import Untrusted, keep_out_of_log, milliseconds
from app.prompt import Background, PromptMessage
from app.provider import endpoint, openai_client

logger = logging.getLogger(__name__)
_tracer = get_tracer("book-chat")  # FastAPI has the API; without a provider, a span is nothing.

FIRST_RETRY_WAIT_SECONDS, LAST_RETRY_WAIT_SECONDS = 0.5, 8.0
"""How long to wait before another attempt, where the provider does not say: twice as long each time."""

MOST_SHORTENINGS = 2
"""How often a prompt is made shorter; the last one has nothing but the question."""

USAGE_WAIT_SECONDS = 1.8
"""How long to wait for the number of tokens after the model has said how its answer ended.

Some servers say so with every piece, so this is also how long such a model may pause.
"""
DRAIN_SECONDS = 0.1
"""How long to wait for the end of a finished body; after it, the connection can be used again."""

FAIR_SHARE_BYTES = 2_048
"""How much of an answer is read before other requests are served."""


@dataclass(frozen=True)
class Completion:
    """What the model said, and what it took."""

    text: str
    is_truncated: bool
    """Whether the model was cut off before its end."""
    passages: int
    """How many passages it was sent."""
    model: str
    """The model that answered, as its server calls it."""
    service_tier: str | None
    duration_ms: int
    usage: Mapping[str, int]
    """The tokens of all attempts, as far as the server counts them: `prompt_tokens`, of which `cached_tokens`, and
    `completion_tokens`, of which `reasoning_tokens`."""


class LanguageModel:
    """Answers questions through the official SDK: from the OpenAI API, or from the offline stand-in without a key.

    The SDK sends. `completions.py` reads what comes back: the SDK's `chat.completions.create` would transform every message and
    build a model of every piece of the answer, which takes as long as the rest of the call.
    """

    def __init__(self, settings: Settings, spend: Callable[[int], None] | None = None) -> None:
        """Raise SettingsError if a proxy or certificates that the environment names cannot be used.

        `spend` is told how many tokens each attempt costs: of an answer whose server does not count, a quarter of the bytes.
        """
        self.name = settings.openai_model
        self._spend = spend
        self._silence_seconds = settings.openai_timeout_seconds
        self._settings = settings
        self._options = settings.openai_options
        stream_options = self._options.pop("stream_options", {"include_usage": True})
        self._stream_options = {"stream_options": stream_options} if stream_options else {}
        self._stream_options_are_known = False
        self._client = openai_client(settings)
        self._url = endpoint(self._client, "chat/completions")

    async def answer(
        self,
        compose: Callable[[Background], Sequence[PromptMessage]],
        background: Background,
        on_delta: Callable[[str], None] | None = None,
    ) -> Completion:
        """Return the model's whole answer, whose text is never blank; with `on_delta`, pass on each piece as it arrives.

        The pieces can show reasoning that only its end gives away; the answer is without it.

        Raises ModelTimeoutError when the model is silent for too long or its time is up, ModelRateLimitError when the provider
        is too busy, ModelRefusedError when it will not answer this prompt, TooLongForModelError when the question alone does
        not fit, ModelUnavailableError when it cannot answer any, and ModelError for all other failures.
        """
        started = time.perf_counter()
        deadline = _now() + self._settings.answer_seconds(is_streamed=on_delta is not None)
        usage: dict[str, int] = {}
        retries = shortenings = 0
        while True:
            prompt = compose(background)
            attempt = await self._attempt(prompt, on_delta, deadline, number=1 + retries + shortenings)
            self._pay(attempt, prompt)
            for name, count in attempt.reader.usage.items():
                usage[name] = usage.get(name, 0) + count
            if attempt.failure is None:
                return Completion(
                    text=attempt.reader.text,
                    is_truncated=attempt.reader.is_truncated,
                    passages=len(background.passages),
                    model=attempt.reader.model or self.name,
                    service_tier=attempt.reader.service_tier,
                    duration_ms=round(milliseconds(time.perf_counter() - started)),
                    usage=usage,
                )
            failure = attempt.failure
            may_shorten = background.chars and shortenings < MOST_SHORTENINGS
            if failure.is_too_long and may_shorten and not attempt.is_shown:
                shortenings += 1
                background = _shorter(background, prompt, failure, is_last=shortenings == MOST_SHORTENINGS)
                continue
            wait = _seconds_before_retry(failure, retries)
            is_last = retries == self._settings.openai_max_retries
            if attempt.is_shown or not failure.may_pass or is_last or wait is None:
                _tell_operator(failure)
                failure.error.usage = usage
                raise failure.error from failure.cause
            retries += 1
            try:
                async with asyncio.timeout_at(deadline):
                    await asyncio.sleep(wait)
            except TimeoutError as error:
                raise ModelTimeoutError(usage=usage) from error

    def _pay(self, attempt: "_Attempt", prompt: Sequence[PromptMessage]) -> None:
        counts = [attempt.reader.usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        tokens = sum(count or 0 for count in counts)
        if attempt.failure is None and None in counts:
            texts = (attempt.reader.text, *(message["content"] for message in prompt))
            tokens = sum(len(text.encode()) for text in texts) // 4
        if tokens and self._spend:
            self._spend(tokens)

    async def _attempt(
        self,
        prompt: Sequence[PromptMessage],
        on_delta: Callable[[str], None] | None,
        deadline: float,
        *,
        number: int,
    ) -> "_Attempt":
        """Ask once, write the `openai.call` record, and return what came of it."""
        keep_out_of_log(*(message["content"] for message in prompt if message["role"] != "system"))

        def is_own_tag(name: str) -> bool:
            return any(f"<{name}" in message["content"] for message in prompt)

        attempt = _Attempt(CompletionReader(most_chars=self._settings.max_answer_chars, is_own_tag=is_own_tag))
        body = {"model": self.name, **self._options, "messages": prompt}
        with self._recorded(attempt, prompt, number):
            try:
                await self._read(attempt, body, on_delta, deadline)
            except (TimeoutError, OpenAIError, httpx2.HTTPError) as cause:
                attempt.failure = failure_of_call(cause)
                if isinstance(cause, APIStatusError):
                    attempt.headers = cause.response.headers
        return attempt

    async def _read(
        self, attempt: "_Attempt", body: dict[str, Any], on_delta: Callable[[str], None] | None, deadline: float
    ) -> None:
        """Send the request, and read the response until its end; what fails after the answer's own end does not matter any more."""
        reader, response, cause = attempt.reader, None, None
        try:
            async with asyncio.timeout_at(min(deadline, _now() + self._silence_seconds)) as patience:
                response = await (self._begin_stream(body) if on_delta else self._post(body))
                attempt.headers = response.headers
                async for data in _in_fair_shares(response):
                    heard, was_finished = reader.choices, reader.is_finished
                    for piece in reader.feed(data):
                        attempt.show(piece, on_delta)
                    if reader.is_cut_off:
                        break
                    until = patience.when() or deadline
                    is_heard = reader.choices > heard or reader.is_finished > was_finished
                    patience.reschedule(min(deadline, self._end_of_patience(reader, until, is_heard=is_heard)))
        except (TimeoutError, httpx2.HTTPError) as error:
            cause = error
        finally:
            if response is not None:
                await response.aclose()
        is_known, pieces = reader.is_finished, reader.close()
        if cause and not (is_known or reader.outcome == "ok"):
            if response is None or is_timeout(cause):
                raise cause
            raise APIConnectionError(request=response.request) from cause
        attempt.failure = failure_of_answer(reader, attempt.headers)
        if attempt.failure and attempt.failure.is_too_long and reader.text.strip():
            reader.is_cut_off, attempt.failure = True, None  # The context was full in the middle of the answer.
        for piece in pieces if attempt.failure is None else ():
            attempt.show(piece, on_delta)

    def _end_of_patience(self, reader: CompletionReader, until: float, *, is_heard: bool) -> float:
        """Return until when to read on: as long as the model is heard, and a little after the answer's end."""
        if reader.is_done:
            return min(until, _now() + DRAIN_SECONDS)
        if not is_heard:
            return until
        return _now() + (USAGE_WAIT_SECONDS if reader.is_finished else self._silence_seconds)

    async def _begin_stream(self, body: dict[str, Any]) -> httpx2.Response:
        """Send the request; if the server refuses the option that asks for the number of tokens, send it without."""
        body, options = {**body, "stream": True}, self._stream_options
        try:
            response = await self._post({**body, **options})
        except APIStatusError as error:
            # Not every server names the option that it refuses; behind a router there can be several servers.
            failure = failure_of_response(error.response)
            is_named = "stream_options" in ((failure.said and failure.said.message) or "")
            is_suspect = is_named or (not self._stream_options_are_known and failure.may_be_an_option)
            if not (options and is_suspect and error.status_code in {400, 422}):
                raise
            response = await self._post(body)
            self._stream_options = {}
        self._stream_options_are_known = True
        return response

    async def _post(self, body: dict[str, Any]) -> httpx2.Response:
        response = await self._client.post(
            self._url,
            cast_to=httpx2.Response,
            body=body,
            options={"max_retries": 0},
            stream=True,
            stream_cls=AsyncStream[Any],
        )
        # For this type the SDK returns the response itself, unread, and its annotation is wrong.
        return cast("httpx2.Response", response)

    @contextmanager
    def _recorded(self, attempt: "_Attempt", prompt: Sequence[PromptMessage], number: int) -> Iterator[None]:
        """Write the record of the attempt, and its span with figures alone: neither prompt nor answer."""
        started = time.perf_counter()
        status: str | int = "cancelled"
        span = _tracer.start_span(
            f"chat {self.name}",
            kind=SpanKind.CLIENT,
            attributes={"gen_ai.operation.name": "chat", "gen_ai.request.model": self.name},
        )
        try:
            yield
            status = attempt.status
        finally:
            reader, failure = attempt.reader, attempt.failure
            keep_out_of_log(reader.text)
            said = failure and failure.said
            fields = {
                "model": self.name,
                "response_model": Untrusted(reader.model) if reader.model not in {None, self.name} else None,
                "service_tier": reader.service_tier and Untrusted(reader.service_tier),
                "messages": len(prompt),
                "attempt": number if number > 1 else None,
                "duration_ms": milliseconds(time.perf_counter() - started),
                "status": status,
                "finish_reason": reader.finish_reason and Untrusted(reader.finish_reason),
                "truncated": reader.is_truncated or None,
                "provider_code": said and said.code and Untrusted(said.code),
                "provider_message": said and said.message and Untrusted(said.message),
                "upstream_request_id": attempt.headers.get("x-request-id"),
                **reader.usage,
            }
            logger.info(
                "openai.call", extra={"fields": {name: value for name, value in fields.items() if value is not None}}
            )
            names = {"prompt_tokens": "gen_ai.usage.input_tokens", "completion_tokens": "gen_ai.usage.output_tokens"}
            span.set_attributes({name: reader.usage[key] for key, name in names.items() if key in reader.usage})
            if status != "ok":
                span.set_attribute("error.type", str(status))
                span.set_status(StatusCode.ERROR)
            span.end()

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()


class _Attempt:
    """One request to the model, and what came of it."""

    def __init__(self, reader: CompletionReader) -> None:
        self.reader = reader
        self.headers = httpx2.Headers()
        self.failure: Failure | None = None
        self.is_shown = False
        """Whether a reader has seen a piece of it."""

    @property
    def status(self) -> str | int:
        return self.failure.status if self.failure else "ok"

    def show(self, piece: str, on_delta: Callable[[str], None] | None) -> None:
        if on_delta:
            self.is_shown = True
            on_delta(piece)


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _in_fair_shares(response: httpx2.Response) -> AsyncIterator[bytes]:
    """Yield the body as it comes; what comes faster than it is read is yielded in shares, between which others have a turn."""
    async for data in response.aiter_bytes():
        for start in range(0, len(data), FAIR_SHARE_BYTES):
            yield data[start : start + FAIR_SHARE_BYTES]
            if len(data) > FAIR_SHARE_BYTES:
                await asyncio.sleep(0)


def _tell_operator(failure: Failure) -> None:
    """Name the setting that is wrong, if it is one: no reader can do anything about that."""
    if failure.setting:
        said = failure.said and failure.said.message and Untrusted(failure.said.message)
        fields = {"setting": failure.setting, "status": failure.status, "provider_message": said}
        logger.error("openai.misconfigured", extra={"fields": fields})


def _shorter(background: Background, prompt: Sequence[PromptMessage], failure: Failure, *, is_last: bool) -> Background:
    """Return what the question is sent with next: as much as fits, half of it if nobody knows what fits, and at last nothing."""
    if is_last:
        return Background()
    share = failure.share_that_fits
    excess = sum(len(message["content"]) for message in prompt) * (1 - share) if share else background.chars / 2
    return background.without(excess)


def _seconds_before_retry(failure: Failure, retries: int) -> float | None:
    """Return how long to wait before another attempt, None if that is too long."""
    if failure.wait_seconds is not None:
        return failure.wait_seconds if failure.wait_seconds <= LONGEST_RETRY_WAIT_SECONDS else None
    # Clients that failed together do not come back together.
    longest = min(math.ldexp(FIRST_RETRY_WAIT_SECONDS, retries), LAST_RETRY_WAIT_SECONDS)
    return longest * random.uniform(0.75, 1)  # noqa: S311  # It is no secret.
