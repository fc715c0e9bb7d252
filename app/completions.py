"""What model servers send: the text of an answer, how it ended, and why there is none.

Servers that speak the Chat Completions API agree on the outline and differ in the details: what stands between the events of
a stream, where the reasoning is, how a stream ends, what an error looks like. Here it is read, without the network.
"""

import codecs
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from app.reasoning import AnswerText

type Outcome = Literal[
    "ok", "error", "refusal", "content_filter", "tool_calls", "aborted", "incomplete", "malformed", "empty"
]
"""How an answer ended; only `ok` is one that may be kept."""

_FINISHED = frozenset({"stop", "complete", "completed", "end_turn", "eos", "eos_token", "stop_sequence", "stop_token"})
"""The finish reasons of an answer that the model ended."""
_CUT_OFF = frozenset(
    {
        *("length", "max_length", "max_tokens", "max_output_tokens", "max_completion_tokens", "token_limit"),
        *("model_length", "context_length", "model_context_window_exceeded"),
    }
)
"""The finish reasons of an answer that has all the tokens it was allowed."""
_FILTERED = frozenset(
    {
        *("content_filter", "content_filtered", "guardrail_intervened", "refusal", "sensitive"),
        *("safety", "recitation", "blocklist", "prohibited_content", "spii", "image_safety", "language"),
    }
)
_TOOL_CALLS = frozenset({"tool_calls", "tool_call", "tool_use", "function_call"})
_NO_REASONS = frozenset({"", "null", "none", "finish_reason_unspecified"})
"""What servers that send no null send while the answer goes on."""

_QUOTED_BYTES = 500
"""How much of a body that is no completion is told as the provider's message."""

MOST_TOKENS = 100_000_000
"""The highest number of tokens that is believed; no context is near it, and the sums of several fit into their columns."""
_LONGEST_NAME = 200
"""How long the name of a model or of a service tier may be."""
_MOST_HELD_BYTES = 16 * 1024 * 1024
"""How long a body, or a line of a stream, may be."""
_STREAM_BYTES_PER_CHAR = 512
"""How much of a stream may come for each character that an answer may have; what surrounds a piece is longer than the piece."""
_MOST_TRIES = 8
"""How many lines of an event are tried as its last; after these, only where the event has become twice as long."""

_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")  # The LF of a last CR may still be on its way.
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class ProviderError:
    """An error in the words of the provider, which can quote the prompt."""

    code: str | None
    message: str | None
    codes: frozenset[str] = field(default=frozenset(), compare=False)
    """Every code, type and status of the error, in lower case: servers differ in which of them is the telling one."""
    param: str | None = field(default=None, compare=False)
    """The field of the request that it is about."""
    tokens: tuple[int, int] | None = field(default=None, compare=False)
    """How long the prompt may be, and how long it is, where the server says so beside its message, as llama.cpp does."""


_DECODER = json.JSONDecoder(strict=False)


def parse_json(text: str) -> Any:
    """Return what the JSON says; raises ValueError, and RecursionError if it is nested too deeply."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:  # A number of thousands of digits. Nothing is lost with them.
        return json.loads(text, strict=False, parse_int=float)


def provider_error(body: Any) -> ProviderError:
    """Return what a body says of an error: `{"error": …}`, a list of these, `{"detail": …}`, or plain text."""
    error = outer = _first(body)
    if isinstance(outer, dict):
        inner = (_first(outer.get(name)) for name in ("error", "errors", "detail"))
        error = next((value for value in inner if value and isinstance(value, dict | str)), outer)
    if not isinstance(error, dict):
        error = {"message": error} | ({"code": outer.get("code")} if isinstance(outer, dict) else {})
    # Types and codes such as "error" say nothing.
    codes = [str(error.get(name)) for name in ("code", "type", "status") if isinstance(error.get(name), str | int)]
    codes = [code for code in codes if code.lower() not in {"", "error", "none", "null"}]
    message = next((str(error[name]) for name in ("message", "msg", "detail", "error") if error.get(name)), None)
    # A router tells what the provider behind it said.
    metadata = error.get("metadata")
    if isinstance(metadata, dict) and (raw := metadata.get("raw")):
        message = f"{message}: {raw}"
    param, limit, needed = (error.get(name) for name in ("param", "n_ctx", "n_prompt_tokens"))
    return ProviderError(
        next(iter(codes), None),
        message,
        frozenset(map(str.lower, codes)),
        param if isinstance(param, str) else None,
        (limit, needed) if type(limit) is type(needed) is int and 0 < limit < needed else None,
    )


def _first(value: Any) -> Any:
    while isinstance(value, list) and value:
        value = value[0]
    return value


class CompletionReader:
    """Reads one answer from its body's bytes: whole, or as server-sent events, whichever the server sends.

    The text is without reasoning, and without characters that PostgreSQL or the wire could not carry. The time that reading
    takes grows with the number of bytes alone.
    """

    def __init__(self, *, most_chars: int, is_own_tag: Callable[[str], bool] = lambda _: False) -> None:
        """Read at most so many characters; `is_own_tag` says whether the prompt has tags of this name."""
        self.finish_reason: str | None = None
        self.error: ProviderError | None = None
        self.usage: dict[str, int] = {}
        """`prompt_tokens`, of which `cached_tokens`, and `completion_tokens`, of which `reasoning_tokens`, as far as the server
        counts them and can be believed."""
        self.model: str | None = None
        """The model that answers, in the server's words."""
        self.service_tier: str | None = None
        self.is_done = False
        """Whether nothing more is to come: the body was whole, or said `[DONE]`, or is longer than it may be."""
        self.is_cut_off = False
        """Whether the answer ends here, before its end: it has all the characters that it may have, or the context is full."""
        self.choices = 0
        """How many times the model has been heard; comments and numbers of tokens do not count."""
        self._most_chars, self._chars, self._bytes = most_chars, 0, 0
        self._index: Any = None
        self._notice: ProviderError | None = None
        self._text = io.StringIO()
        self._answer = AnswerText(is_own_tag)
        self._characters = _Characters()
        self._is_stream: bool | None = None
        self._beginning = b""
        self._rest: list[bytes] = []
        """The pieces of a body, or of a line, whose end has not come."""
        self._rest_bytes = 0
        self._event = ""
        self._data: list[str] = []
        self._data_chars = self._tried_chars = 0
        self._has_data = False
        self._has_ended = self._is_malformed = self._is_refusal = self._has_tool_calls = False

    @property
    def text(self) -> str:
        """The answer as far as it was read."""
        return self._answer.answer_in(self._text.getvalue())

    @property
    def is_truncated(self) -> bool:
        """Whether the answer was cut off: it has all the tokens, or all the characters, that it was allowed."""
        return self.is_cut_off or self._reason in _CUT_OFF

    @property
    def is_finished(self) -> bool:
        """Whether it is known how the answer ended; the number of tokens may still follow."""
        return self.is_done or self.is_cut_off or self.finish_reason is not None or self.error is not None

    @property
    def _reason(self) -> str | None:
        # Some add the filter's category: "content_filter: PROHIBITED_CONTENT".
        return self.finish_reason.lower().partition(":")[0].strip() if self.finish_reason else None

    @property
    def outcome(self) -> Outcome:  # noqa: PLR0911  # One line for each.
        """How the answer ended, once its body has been read."""
        reason, is_blank = self._reason, not self.text.strip()
        if self.is_cut_off and not is_blank:
            return "ok"
        if self._is_malformed:
            return "malformed"
        if self.error:
            return "error"
        if self._is_refusal:
            return "refusal"
        if not self.is_finished:
            return "incomplete"
        if reason in _FILTERED:
            return "content_filter"
        if reason in _TOOL_CALLS or (self._has_tool_calls and is_blank):
            return "tool_calls"
        if reason is not None and reason not in _FINISHED | _CUT_OFF:
            return "aborted"
        return "empty" if is_blank else "ok"

    def feed(self, data: bytes) -> list[str]:
        """Read the next bytes of the body, and return the pieces of text that they add."""
        self._beginning += data[: max(0, _QUOTED_BYTES - len(self._beginning))]
        if self._is_stream is None:
            data = b"".join([*self._rest, data]).removeprefix(codecs.BOM_UTF8).lstrip()
            self._rest = []
            if codecs.BOM_UTF8.startswith(data):
                self._rest = [data]
                return []  # Nothing yet, or the first bytes of a byte order mark.
            self._is_stream = data[:1] not in b'{["<'  # No line of an event stream begins with one of these.
        self._bytes += len(data)
        if self._is_too_long(len(data)):
            return []
        if not self._is_stream:
            self._rest.append(data)
            return []
        contents = (self._read_line(line.decode(errors="replace")) for line in self._lines(data))
        return self._add([self._visible(content) for content in contents if content])

    def _is_too_long(self, length: int) -> bool:
        self._rest_bytes += length
        most = _MOST_HELD_BYTES + _STREAM_BYTES_PER_CHAR * self._most_chars
        if self._rest_bytes <= _MOST_HELD_BYTES and self._bytes <= most:
            return False
        self._rest, self.is_done, self._is_malformed = [], True, True
        self._forget_data()
        self.error = self.error or ProviderError(code=None, message="The body is longer than an answer may be.")
        return True

    def _lines(self, data: bytes) -> list[bytes]:
        """Return the lines that end with this data; of a long one, the pieces are joined only once."""
        if not (b"\n" in data or b"\r" in data or (self._rest and self._rest[-1].endswith(b"\r"))):
            self._rest.append(data)
            return []
        *lines, rest = _LINE_END.split(b"".join([*self._rest, data]))
        self._rest, self._rest_bytes = [rest], len(rest)
        return lines

    def close(self) -> list[str]:
        """Read what is left at the end of the body, and return the pieces of text that it adds."""
        rest, self._rest = b"".join(self._rest), []
        content = ""
        if self._is_stream:
            content = self._read_line(rest.removesuffix(b"\r").decode(errors="replace")) + self._read_line("")
            if not (self._has_data or self.error):
                self._reject(self._beginning)
        elif not self.is_done:
            content = self._read_whole(rest)
        pieces = self._add([self._visible(content), self._answer.feed(self._characters.close()), self._answer.close()])
        if self.outcome in {"incomplete", "empty"}:
            self.error = self._notice
        return pieces

    def _visible(self, content: str) -> str:
        return self._answer.feed(self._characters.feed(content))

    def _add(self, texts: list[str]) -> list[str]:
        pieces = []
        for text in filter(None, texts):
            piece = text[: self._most_chars - self._chars]
            self.is_cut_off |= len(piece) < len(text)
            self._chars += len(piece)
            if piece:
                pieces.append(piece)
        self._text.writelines(pieces)
        return pieces

    def _read_line(self, line: str) -> str:
        """Read a line of an event stream, and return the content that is complete with it.

        Data is complete as soon as it is JSON: not every server ends an event with a blank line, least of all the last one.
        """
        name, _, value = line.partition(":")
        value = value.strip()
        if line.startswith("{"):  # Some proxies write what went wrong into the stream as it is.
            name, value = "data", line
        elif name == "error":  # Older llama.cpp.
            name, self._event = "data", "error"
        if name == "event":
            self._event = value
        elif not line:
            return self._end_event()
        elif name == "data":
            self._has_data = True
            if value.lstrip('"').startswith("[DONE]"):
                self.is_done = True
                return ""
            self._data.append(value)
            self._data_chars += len(value)
            if len(self._data) <= _MOST_TRIES or self._data_chars >= 2 * self._tried_chars:
                return self._read_data()
        return ""

    def _read_data(self) -> str:
        """Read the event's data if it is complete, and return its content."""
        self._tried_chars = self._data_chars
        try:
            chunk = parse_json("".join(self._data))
        except (ValueError, RecursionError):
            return ""
        self._forget_data()
        return self._read_body(chunk)

    def _end_event(self) -> str:
        content = self._read_data() if self._data_chars > self._tried_chars else ""
        data = "".join(self._data)
        if self._event == "error" and data:
            self._fail(data)
        # What is no JSON, and does not begin as a chunk does, is an event of another kind; so is all that comes after the end.
        self._is_malformed |= data.startswith("{") and not self.is_finished
        self._event = ""
        self._forget_data()
        return content

    def _forget_data(self) -> None:
        self._data = []
        self._data_chars = self._tried_chars = 0

    def _read_whole(self, body: bytes) -> str:
        try:
            completion = parse_json(body.decode(errors="replace"))
        except (ValueError, RecursionError):
            self._reject(body)
            return ""
        content = self._read_body(completion)
        self.is_done = True
        found = _first(completion)
        if not (isinstance(found, dict) and found.get("choices")):
            self.error = self.error or provider_error(completion)
            self._is_malformed = not (self.error.message or self.error.codes)
        return content

    def _reject(self, body: bytes) -> None:
        """Take note of a body that is neither a completion nor an error, such as a web page."""
        self._is_malformed = True
        self.error = ProviderError(code=None, message=body[:_QUOTED_BYTES].decode(errors="replace") or None)

    def _read_body(self, body: Any) -> str:
        """Read a completion or a chunk of one, and return its content."""
        body = _first(body)
        if self._event == "error" or (isinstance(body, dict) and (body.get("error") or body.get("object") == "error")):
            self._fail(body)
            return ""
        if not isinstance(body, dict):
            return ""
        self.model = self.model or _name(body.get("model"))
        self.service_tier = self.service_tier or _name(body.get("service_tier"))
        if isinstance(usage := body.get("usage"), dict):
            self.usage |= _counts(usage)
        choice = _first(body.get("choices"))
        if not isinstance(choice, dict):
            if "choices" not in body and (notice := provider_error(body)).message:
                self._notice = notice
            return ""
        # Several answers were asked for: the first one is read.
        index = choice.get("index") or 0
        self._index = index if self.choices == 0 else self._index
        return self._read_choice(choice) if index == self._index else ""

    def _read_choice(self, choice: dict[str, Any]) -> str:
        self.choices += 1
        if choice.get("error"):
            self.error = provider_error(choice)
        reason = choice.get("finish_reason") or choice.get("finishReason")
        reason = str(reason.get("type") if isinstance(reason, dict) else reason or "")
        if reason.lower() not in _NO_REASONS:
            self.finish_reason = reason
        # Perplexity sends both: an empty delta beside a whole message, and the message so far beside each delta.
        names = ("delta", "message") if self._is_stream else ("message", "delta")
        part = choice.get(names[0] if names[0] in choice else names[1])
        if not isinstance(part, dict):
            return ""
        self._is_refusal |= bool(part.get("refusal"))
        self._has_tool_calls |= bool(part.get("tool_calls") or part.get("function_call"))
        content = part.get("content")
        if self._is_stream and type(content) is int:  # Cloudflare takes a piece that is all digits for a number.
            content = str(content)
        text = "".join(_texts(content))
        self._has_ended = bool(self.finish_reason) and not text
        return text

    def _fail(self, body: Any) -> None:
        """Take note of an error, unless it comes after the answer's end; a piece that says it is the last need not be."""
        if not (self.is_done or self._has_ended):
            self.error = self.error or provider_error(body)


def _texts(content: Any) -> Iterator[str]:
    """Yield the texts of a message's content: a string, or parts, of which some are reasoning."""
    if isinstance(content, str):
        yield content
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, dict) and part.get("type", "text") in {"text", "output_text"}:
            yield str(part.get("text") or "")


def _name(value: Any) -> str | None:
    return _storable(value[:_LONGEST_NAME]) if value and isinstance(value, str) else None


def _counts(usage: dict[str, Any]) -> dict[str, int]:
    """Return the numbers of tokens that can be believed."""
    details = {name: usage.get(f"{name}_details") or {} for name in ("prompt_tokens", "completion_tokens")}
    cached, reasoning = (each if isinstance(each, dict) else {} for each in details.values())
    counts = {
        "prompt_tokens": usage.get("prompt_tokens"),
        "completion_tokens": usage.get("completion_tokens"),
        "cached_tokens": cached.get("cached_tokens", usage.get("prompt_cache_hit_tokens")),  # The second is DeepSeek's.
        "reasoning_tokens": reasoning.get("reasoning_tokens", usage.get("reasoning_tokens")),  # Perplexity's.
    }
    return {name: count for name, count in counts.items() if type(count) is int and 0 <= count <= MOST_TOKENS}


class _Characters:
    """Joins surrogate pairs that were split between two pieces."""

    def __init__(self) -> None:
        self._high_surrogate = ""

    def feed(self, content: str) -> str:
        """Return what is whole with this content, as it can be stored and sent."""
        if not content:
            return ""
        content = self._high_surrogate + content
        self._high_surrogate = content[-1] if "\ud800" <= content[-1] <= "\udbff" else ""
        return _storable(content.removesuffix(self._high_surrogate))

    def close(self) -> str:
        """Return what is left."""
        return _storable(self._high_surrogate)


def _storable(text: str) -> str:
    """Return the text with surrogate pairs joined, and what PostgreSQL or the wire could not carry replaced."""
    if _SURROGATE.search(text):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        text = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")
