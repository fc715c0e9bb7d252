"""What a failure of the model means: what its reader is told, what its operator can do, and whether to try again.

Providers say the same thing in many words. These are the words of OpenAI, Azure, Gemini, Mistral, Groq, DeepSeek, OpenRouter,
LiteLLM, vLLM, SGLang, TGI, llama.cpp, Ollama, LM Studio and others, as far as they are known.
"""

import email.utils
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC
from http import HTTPStatus
from typing import Any

import httpx2
from openai import APIStatusError

from app.completions import CompletionReader, ProviderError, parse_json, provider_error
from app.errors import (
    ModelError,
    ModelRateLimitError,
    ModelRefusedError,
    ModelTimeoutError,
    ModelUnavailableError,
    TooLongForModelError,
)
from app.logs import current_request
from app.models import utc_now

LONGEST_RETRY_WAIT_SECONDS = 2.0
"""A provider that asks for a longer wait is not asked again: the reader is told how long, and decides."""

QUOTA_CODES = frozenset(
    {
        *("insufficient_quota", "exceeded_current_quota_error", "insufficient_balance", "insufficient_credits"),
        *("billing_hard_limit_reached", "billing_not_active"),
    }
)
_KEY_CODES = frozenset({"401", "403", "invalid_api_key", "invalidapikey", "authentication_error", "permission_denied"})
_MODEL_CODES = frozenset(
    {
        *("model_not_found", "deploymentnotfound", "unknown_model", "invalid_model", "model_not_supported"),
        *("model_not_available", "model_deprecated", "model_decommissioned", "model_terms_required"),
    }
)
_OPTION_CODES = frozenset(
    {
        *(
            "unsupported_parameter",
            "unsupported_value",
            "unknown_parameter",
            "extra_forbidden",
            "unrecognized_parameter",
        ),
        *("invalid_parameter_value", "unsupported_country_region_territory"),
    }
)
_BUSY_CODES = frozenset(
    {
        *("429", "529", "rate_limit_exceeded", "rate_limit_error", "resource_exhausted", "too_many_requests"),
        *("overloaded_error", "engine_overloaded_error", "capacity_exceeded", "slow_down"),
    }
)
_REFUSAL_CODES = frozenset(
    {"content_filter", "content_policy_violation", "data_inspection_failed", "datainspectionfailed", "invalid_prompt"}
)
_TOO_LONG_CODES = frozenset(
    {
        *(
            "413",
            "context_length_exceeded",
            "exceed_context_size_error",
            "context_window_exceeded",
            "tokens_limit_reached",
        ),
        *("model_max_prompt_tokens_exceeded", "string_above_max_length", "request_too_large", "prompt_too_long"),
    }
)
_PASSING_CODES = frozenset({"408", "409", "425", "429", *_BUSY_CODES})

_REFUSAL = re.compile("content (management )?(filter|policy)|content exists risk|moderation|flagged")
_KEY = re.compile("api[ -]?key|(organi[sz]ation|account) must be verified|unauthori[sz]ed")
_MODEL = re.compile(
    r"models?\b.{0,160}?(not found|not exist|doesn't exist|unknown|not available|not supported|no longer|deprecated"
    r"|decommissioned|not a valid)|(invalid|not a valid|unknown|unsupported|no such|nonexistent) model\b|not a chat model"
    r"|no endpoints found|^model: \S+$"
)
_OPTION = re.compile(
    r"(unsupported|unrecogni[sz]ed|unknown|unexpected)( request| keyword)? (parameter|argument|field|param|property|key)s?\b"
    r"|extra inputs are not permitted|extra_forbidden|unsupportedparams|property '[^']*' is (unsupported|not supported)"
    r"|does not support (the )?(param|thinking|reasoning|temperature|setting)|not supported with this model"
    r"|(parameter|option|value|effort)\b.{0,60}not supported"
)
_TOO_LONG = re.compile(
    r"context[ _-]?(length|window|size)|contextwindow|\bn_ctx\b|max(imum)?[ _](prompt|input|model)[ _]?len(gth)?"
    r"|(prompt|inputs?|messages?|request|body|conversation|text|string)\b[^.]{0,60}?(?<!took )(?<!taking )too (long|large)\b(?! to\b)"
    r"|maximum number of (input )?tokens|token count[^.]{0,80}exceed|exceeds?[^.]{0,60}(token limit|tokens allowed|max\w* tokens)"
    r"|reduce (the|your) (length|prompt|message|input|number of|context|size)|tokens must be reduced"
    r"|inputs?\b.{0,40}must (be <=|have less than)|max_tokens must be at least 1, got -|too many (input |prompt )?tokens"
    r"|(entity|payload|content) too large"
)
_THROTTLED = re.compile(
    r"rate.?limit|quota|per[ -](minute|min|hour|day)\b|\b[tr]p[md]\b|throttl|please wait|try again in"
)
_TOO_LARGE_AT_ONCE = re.compile(
    r"(request|prompt|input) (is )?too large|tokens must be reduced|reduce your (message|prompt)"
)

_LIMIT = re.compile(
    r"(?:maximum|max\b|limit|at most|context[ _](?:length|size|window)|available|allowed|less than|<=|n_ctx)\D{0,60}?(\d[\d,_]*)"
    r"|(\d[\d,_]*)(?: tokens?)? (?:maximum|limit)"
)
_NUMBER = re.compile(r"(?<![\w.-])\d[\d,_]*(?![\w.-]*[a-z-])")
_SMALLEST_LIMIT = 200
_SHORTEST_QUOTATION = 20
_PROMPT_SHARE = 0.75
"""How much of a context a prompt may take that is made shorter; the rest is for the answer."""


@dataclass(frozen=True)
class Failure:
    """Why one attempt gave no answer."""

    error: ModelError
    """What the reader is told."""
    status: str | int
    """What the log calls it."""
    said: ProviderError | None = None
    setting: str | None = None
    """The setting that the operator has to look at, if it is one."""
    may_pass: bool = False
    """Whether the same attempt may succeed if it is made again."""
    wait_seconds: float | None = None
    """How long the provider asks to wait."""
    cause: BaseException | None = None

    @property
    def is_too_long(self) -> bool:
        """Whether the prompt does not fit into the model's context."""
        return isinstance(self.error, TooLongForModelError)

    @property
    def may_be_an_option(self) -> bool:
        """Whether the server may have refused an option of the request, rather than the request."""
        return type(self.error) is ModelError or self.setting in {"OPENAI_EXTRA_BODY", "OPENAI_REASONING_EFFORT"}

    @property
    def share_that_fits(self) -> float | None:
        """Which share of the prompt would fit and leave room for an answer, if the provider says how long it may be."""
        return _share_that_fits(self.said) if self.said else None


def failure_of_answer(reader: CompletionReader, headers: httpx2.Headers) -> Failure | None:
    """Return why a body that was read has no answer, None if it has one."""
    outcome, said = reader.outcome, reader.error
    match outcome:
        case "ok":
            return None
        case "error" if said:
            return replace(_meaning(said, None, headers), status="error")
        case "refusal":
            return Failure(ModelRefusedError(), outcome, said)
        case "content_filter" if not reader.text.strip():
            return Failure(ModelRefusedError(), outcome, said)
        case "malformed":
            is_page = bool(said and said.message and said.message.lstrip().startswith("<"))
            return Failure(ModelError(), outcome, said, setting="OPENAI_BASE_URL" if is_page else None, may_pass=True)
        case _:
            return Failure(ModelError(), outcome, said, may_pass=True)


def failure_of_call(cause: Exception) -> Failure:
    """Return what it means that the call itself failed."""
    if isinstance(cause, APIStatusError):
        return failure_of_response(cause.response, cause)
    if is_timeout(cause):
        return Failure(ModelTimeoutError(), "timeout", cause=cause)
    name = type(cause).__name__
    proxys = next((each for each in _chain(cause) if isinstance(each, httpx2.ProxyError)), None)
    if proxys is not None and any(getattr(each, "status", None) == _PROXY_DENIES for each in _chain(proxys)):
        return Failure(ModelUnavailableError(), _PROXY_DENIES, setting="HTTPS_PROXY", cause=cause)
    is_unreached = any(isinstance(each, httpx2.ConnectError | httpx2.UnsupportedProtocol) for each in _chain(cause))
    return Failure(ModelError(), name, setting="OPENAI_BASE_URL" if is_unreached else None, may_pass=True, cause=cause)


def failure_of_response(response: httpx2.Response, cause: Exception | None = None) -> Failure:
    """Return what a response means whose status says that there is no answer."""
    status, headers = response.status_code, response.headers
    if response.is_redirect:
        said = ProviderError(str(status), f"redirects to {headers.get('location')}")
        return Failure(ModelUnavailableError(), status, said, setting="OPENAI_BASE_URL", cause=cause)
    failure = _meaning(cause_of(response), status, headers)
    should_retry = headers.get("x-should-retry")
    if failure.error.retryable and should_retry in {"true", "false"}:
        failure = replace(failure, may_pass=should_retry == "true")
    return replace(failure, status=status, cause=cause)


def _meaning(said: ProviderError, status: int | None, headers: httpx2.Headers) -> Failure:
    """Return what a provider's error means, whose code can also be an HTTP status."""
    codes = {*said.codes, str(status)}
    message = _in_its_own_words(said.message or "")
    is_broken = any(re.fullmatch(r"5\d\d", code) for code in codes)
    is_busy = bool(codes & _BUSY_CODES)
    wait = wait_seconds(headers)
    retry_after = retry_after_of(wait)

    def failure(error: ModelError, setting: str | None = None, *, may_pass: bool = False) -> Failure:
        return Failure(error, "error", said, setting, may_pass, wait)

    if _is_too_long(codes, message, said):
        return failure(TooLongForModelError())
    if codes & _REFUSAL_CODES or (_REFUSAL.search(message) and not (is_busy or is_broken)):
        return failure(ModelRefusedError())
    if codes & QUOTA_CODES or "402" in codes:
        return failure(ModelUnavailableError())
    if is_busy:  # A limit can be that of "your API key".
        return failure(ModelRateLimitError(retry_after=retry_after), may_pass=True)
    if (setting := _setting_to_change(codes, message, said)) and not is_broken:
        return failure(ModelUnavailableError(), setting)
    # What a request lacks today it lacks tomorrow. A code that is no status says nothing of that.
    is_refused = any(re.fullmatch(r"4\d\d", code) for code in codes) and not codes & _PASSING_CODES
    return failure(ModelError(retry_after=retry_after), may_pass=is_broken or not is_refused)


def _is_too_long(codes: set[str], message: str, said: ProviderError) -> bool:
    if codes & _TOO_LONG_CODES:
        return True
    if _THROTTLED.search(message) or codes & _BUSY_CODES:
        # A limit that this request alone exceeds, unlike one that the requests of a minute exceed together.
        limits = re.search(r"limit:? (\d[\d,]*).{0,40}?requested:? (\d[\d,]*)", message)
        is_above = limits is not None and _integer(limits[2]) > _integer(limits[1])
        return is_above or _TOO_LARGE_AT_ONCE.search(message) is not None
    return said.tokens is not None or _TOO_LONG.search(message) is not None


def _setting_to_change(codes: set[str], message: str, said: ProviderError) -> str | None:
    """Return the setting that is wrong, None if it is not known to be one."""
    if codes & _OPTION_CODES or (not codes & _MODEL_CODES and _OPTION.search(message)):
        return (
            "OPENAI_REASONING_EFFORT"
            if re.search("reasoning|think", f"{message} {said.param}")
            else "OPENAI_EXTRA_BODY"
        )
    if codes & _MODEL_CODES or said.param == "model" or _MODEL.search(message):
        return "OPENAI_MODEL"
    if codes & _KEY_CODES or _KEY.search(message):
        return "OPENAI_API_KEY"
    if str(_PROXY_DENIES) in codes:
        return "HTTPS_PROXY"
    return "OPENAI_BASE_URL" if codes & {"404", "405", "410"} else None


def _in_its_own_words(message: str) -> str:
    """Return the message without what it quotes of the reader, whose words decide nothing, in lower case."""
    for text in current_request().confidential:
        if len(text) >= _SHORTEST_QUOTATION:
            message = message.replace(text, "")
    return message.lower()


def _share_that_fits(said: ProviderError) -> float | None:
    tokens = said.tokens
    if tokens is None:
        message = (said.message or "").lower()
        limits = [_integer(match[1] or match[2]) for match in _LIMIT.finditer(message)]
        limit = next((limit for limit in limits if limit >= _SMALLEST_LIMIT), None)
        needed = max(map(_integer, _NUMBER.findall(message)), default=0)
        tokens = (limit, needed) if limit else None
    if tokens is None or tokens[1] <= tokens[0]:
        return None
    return _PROMPT_SHARE * tokens[0] / tokens[1]


def _integer(digits: str) -> int:
    return int(re.sub("[,_]", "", digits)[:12])


_PROXY_DENIES = HTTPStatus.PROXY_AUTHENTICATION_REQUIRED.value


def _chain(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def is_timeout(error: BaseException) -> bool:
    """Whether the error is that something took too long."""
    return any(isinstance(each, TimeoutError) for each in _chain(error))


def cause_of(response: httpx2.Response) -> ProviderError:
    """Return what the response says of its error; the SDK keeps only a part of it."""
    return provider_error(_parsed(response))


def _parsed(response: httpx2.Response) -> Any:
    try:
        return parse_json(response.content.decode())
    except (ValueError, RecursionError):
        return response.text


def wait_seconds(headers: httpx2.Headers) -> float | None:
    """Return how long the provider asks to wait; None if it does not say, or not in a way that can be meant."""
    for name, divisor in (("retry-after-ms", 1000), ("retry-after", 1)):
        value = headers.get(name, "").strip()
        seconds = float(value) / divisor if re.fullmatch(r"\d{1,12}(\.\d{1,12})?", value) else _seconds_until(value)
        if seconds is not None and seconds > 0:
            return seconds
    return None


def _seconds_until(date: str) -> float | None:
    try:
        moment = email.utils.parsedate_to_datetime(date)
    except ValueError:
        return None
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - utc_now()).total_seconds()


def retry_after_of(seconds: float | None) -> str | None:
    """Return the value of our Retry-After, a whole number of seconds from 1."""
    return None if seconds is None else str(max(1, math.ceil(seconds)))
