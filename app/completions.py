"""What model servers send: the text of an answer, how it ended, and why there is none.

Servers that speak the Chat Completions API agree on the outline and differ in the details: what stands between the events of
a stream, where the reasoning is, how a stream ends, what an error looks like. Here it is read, without the network.
"""

import codecs
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

type Outcome = Literal[
    "ok", "error", "refusal", "content_filter", "tool_calls", "aborted", "incomplete", "malformed", "empty"
]
"""How an answer ended; only `ok` is one that may be kept."""

_FINISHED = frozenset(
    {
        *("stop", "length"),
        *("complete", "completed", "end_turn", "eos", "eos_token", "stop_sequence", "stop_token"),
        *("max_tokens", "max_output_tokens", "model_length"),
    }
)
"""The finish reasons of an answer that the model ended, or that has all the tokens it was allowed."""
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

_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")  # The LF of a last CR may still be on its way.
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class ProviderError:
    """An error in the words of the provider, which can quote the prompt."""

    code: str | None
    message: str | None
    codes: frozenset[str] = field(default=frozenset(), compare=False)
    """Every code, type and status of the error, in lower case: servers differ in which of them is the telling one."""


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
    return ProviderError(next(iter(codes), None), message, frozenset(map(str.lower, codes)))


def _first(value: Any) -> Any:
    while isinstance(value, list) and value:
        value = value[0]
    return value


class CompletionReader:
    """Reads one answer from its body's bytes: whole, or as server-sent events, whichever the server sends.

    The text is without reasoning, and without characters that PostgreSQL or the wire could not carry.
    """

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.error: ProviderError | None = None
        self.usage: dict[str, int] = {}
        """`prompt_tokens` and `completion_tokens`, if the server counts them."""
        self.is_done = False
        """Whether nothing more is to come: the body was whole, or said `[DONE]`."""
        self.choices = 0
        """How many times the model has been heard; comments and numbers of tokens do not count."""
        self._index: Any = None
        self._notice: ProviderError | None = None
        self._text = io.StringIO()
        self._visible = _VisibleText()
        self._is_stream: bool | None = None
        self._beginning = self._rest = b""
        self._event = self._data = ""
        self._has_data = False
        self._has_ended = self._is_malformed = self._is_refusal = self._has_tool_calls = False

    @property
    def text(self) -> str:
        """The answer as far as it was read."""
        return self._text.getvalue()

    @property
    def is_finished(self) -> bool:
        """Whether it is known how the answer ended; the number of tokens may still follow."""
        return self.is_done or self.finish_reason is not None or self.error is not None

    @property
    def outcome(self) -> Outcome:  # noqa: PLR0911  # One line for each.
        """How the answer ended, once its body has been read."""
        # Some add the filter's category: "content_filter: PROHIBITED_CONTENT".
        reason = self.finish_reason.lower().partition(":")[0].strip() if self.finish_reason else None
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
        is_blank = not self.text.strip()
        if reason in _TOOL_CALLS or (self._has_tool_calls and is_blank):
            return "tool_calls"
        if reason is not None and reason not in _FINISHED:
            return "aborted"
        return "empty" if is_blank else "ok"

    def feed(self, data: bytes) -> list[str]:
        """Read the next bytes of the body, and return the pieces of text that they add."""
        self._rest += data
        self._beginning += data[: max(0, _QUOTED_BYTES - len(self._beginning))]
        if self._is_stream is None:
            self._rest = self._rest.removeprefix(codecs.BOM_UTF8).lstrip()
            if codecs.BOM_UTF8.startswith(self._rest):
                return []  # Nothing yet, or the first bytes of a byte order mark.
            self._is_stream = self._rest[:1] not in b'{["<'  # No line of an event stream begins with one of these.
        if not self._is_stream:
            return []
        *lines, self._rest = _LINE_END.split(self._rest)
        contents = (self._read_line(line.decode(errors="replace")) for line in lines)
        return self._add([self._visible.feed(content) for content in contents if content])

    def close(self) -> list[str]:
        """Read what is left at the end of the body, and return the pieces of text that it adds."""
        rest, self._rest = self._rest, b""
        if self._is_stream:
            content = self._read_line(rest.removesuffix(b"\r").decode(errors="replace")) + self._read_line("")
            if not (self._has_data or self.error):
                self._reject(self._beginning)
        else:
            content = self._read_whole(rest)
        pieces = self._add([self._visible.feed(content), self._visible.close()])
        if self.outcome in {"incomplete", "empty"}:
            self.error = self._notice
        return pieces

    def _add(self, texts: list[str]) -> list[str]:
        pieces = [text for text in texts if text]
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
            if self._event == "error" and self._data:
                self._fail(self._data)
            # What is no JSON and does not begin as our chunks do is another kind of event. After the end, all is.
            self._is_malformed |= self._data.startswith("{") and not self.is_finished
            self._event = self._data = ""
        elif name == "data":
            self._has_data = True
            if value.lstrip('"').startswith("[DONE]"):
                self.is_done = True
                return ""
            self._data += value
            try:
                chunk = json.loads(self._data, strict=False)
            except (ValueError, RecursionError):
                return ""
            self._data = ""
            return self._read_body(chunk)
        return ""

    def _read_whole(self, body: bytes) -> str:
        try:
            completion = json.loads(body.decode(errors="replace"), strict=False)
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
        usage = body.get("usage")
        for name in ("prompt_tokens", "completion_tokens"):
            if isinstance(usage, dict) and isinstance(count := usage.get(name), int):
                self.usage[name] = count
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


class _VisibleText:
    """Leaves out the reasoning at an answer's beginning, and joins surrogate pairs that were split between two pieces."""

    _TAGS: ClassVar = {"<think>": "</think>", "<thought>": "</thought>", "[THINK]": "[/THINK]"}

    def __init__(self) -> None:
        self._state: Literal["opening", "reasoning", "answer"] = "opening"
        self._held = self._close = ""
        self._after_reasoning = False
        self._high_surrogate = ""

    def feed(self, content: str) -> str:
        """Return the text that has become visible with this content."""
        if not content:
            return ""
        content = self._high_surrogate + content
        self._high_surrogate = content[-1] if "\ud800" <= content[-1] <= "\udbff" else ""
        content = content.removesuffix(self._high_surrogate)
        if self._state == "answer":
            return _storable(content)
        self._held += content
        return self._decide()

    def close(self) -> str:
        """Return what was held back, at the answer's end."""
        rest = "" if self._state == "reasoning" else self._held
        return _storable(rest + self._high_surrogate)

    def _decide(self) -> str:
        while True:
            if self._state == "reasoning":
                _, closed, rest = self._held.partition(self._close)
                if not closed:
                    self._held = self._held[-len(self._close) :]
                    return ""
                self._state, self._held, self._after_reasoning = "opening", rest, True
            begin = self._held.lstrip()
            if self._after_reasoning:
                self._held = begin
            if opening := next(filter(begin.startswith, self._TAGS), None):
                self._state, self._held, self._close = "reasoning", begin.removeprefix(opening), self._TAGS[opening]
            elif any(tag.startswith(begin) for tag in self._TAGS):
                return ""  # It may still become a tag.
            else:
                self._state, text, self._held = "answer", self._held, ""
                return _storable(text)


def _storable(text: str) -> str:
    """Return the text with surrogate pairs joined, and what PostgreSQL or the wire could not carry replaced."""
    if _SURROGATE.search(text):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        text = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")
