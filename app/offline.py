"""The offline stand-in for the model, for development without an API key: it only quotes, and says so.

It is a transport under the real client, so requests, parsing and streaming are the SDK's own. It knows nothing: an answer
consists of those sentences from the excerpt or the passages in the prompt that fit the question best, or of the first ones if the
question names no subject. Those from passages come with their numbers.
"""

import json
import math
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, override

import httpx2

from app.citations import without_markers
from app.intent import subject_of

PREFACE = "[Offline stand-in, not a language model]"

_FENCED = re.compile(
    r'<(?P<tag>(?P<kind>excerpt|passage|page|reader)-\w+)(?: number="(?P<number>\d+)")?[^>]*>\n(?P<text>.*?)\n</(?P=tag)>\n\n',
    re.DOTALL,
)
_SENTENCE_END = re.compile(r"(?<=[.!?。؟\u06d4])\s+|\n\s*\n")
_MOST_SENTENCES = 3
_MOST_FIRST_SENTENCES = 5
_SHORTEST_WORD = 3


_COMMON = frozenset(
    re.findall(
        r"\w+",
        "about and are but can did does for from had has have his how into its not that the them then there these they this "
        "those was were what when where which who why will with would you your",
    )
)


class OfflineTransport(httpx2.AsyncBaseTransport):
    """Serves `POST /chat/completions`, whole or as a stream of server-sent events."""

    @override
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(await request.aread())
        answer = _answer(body["messages"])
        if body.get("stream"):
            events = b"".join(_events(body["model"], answer))
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=events)
        message = {"role": "assistant", "content": answer}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return httpx2.Response(200, json=_envelope("chat.completion", body["model"], choice))


def _envelope(kind: str, model: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"offline-{uuid.uuid4()}",
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
    }


def _events(model: str, answer: str) -> Iterator[bytes]:
    words = re.findall(r"\S+\s*", answer)
    for delta, reason in [*(({"content": word}, None) for word in words), ({}, "stop")]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        yield f"data: {json.dumps(_envelope('chat.completion.chunk', model, choice))}\n\n".encode()
    yield b"data: [DONE]\n\n"


def _answer(messages: Sequence[dict[str, str]]) -> str:
    *earlier, last = messages
    texts, question = _quoted(last["content"])
    if not texts:
        count = sum(message["role"] != "system" for message in earlier)
        return (
            f"{PREFACE} There is no text to quote from. Select some text of the book and ask about it, or set "
            f"OPENAI_API_KEY to get real answers. The question came with {count} earlier "
            f"message{'' if count == 1 else 's'} of this conversation."
        )
    if not subject_of(question) and (first := _first_sentences(texts)):
        return f"{PREFACE} The text begins: {' '.join(first)}"
    best = _best_sentences(question, [*chain.from_iterable(texts)])
    if not best:
        return f"{PREFACE} The text does not say: none of its sentences shares a word with the question."
    return f"{PREFACE} The closest sentences of the text: {' '.join(best)}"


def _quoted(content: str) -> tuple[list[list[str]], str]:
    """Return the sentences of each fenced text at the beginning of a message, and the question after them."""
    texts: list[list[str]] = []
    end = 0
    while match := _FENCED.match(content, end):
        if match["kind"] in {"excerpt", "passage"}:
            texts.append([*_sentences(match["text"], match["number"])])
        end = match.end()
    return texts, content[end:]


def _first_sentences(texts: Sequence[Sequence[str]]) -> list[str]:
    """Return the first sentences of each text: the more texts, the fewer of each."""
    of_each = max(1, _MOST_FIRST_SENTENCES // max(1, len(texts)))
    return [sentence for sentences in texts for sentence in sentences[:of_each]][:_MOST_FIRST_SENTENCES]


def _sentences(text: str, number: str | None) -> Iterator[str]:
    """Yield the sentences of an excerpt as they are, and those of a passage as plain text with its number."""
    if number is None:
        yield from (sentence.strip() for sentence in _SENTENCE_END.split(text) if sentence.strip())
        return
    for sentence in _SENTENCE_END.split(_prose(text)):
        if plain := " ".join(without_markers(sentence).split()):
            yield f"{plain} [{number}]"


_TABLE = re.compile(r"^[ \t]*\|.*\n[ \t]*\|[-:| \t]+$(?:\n[ \t]*\|.*)*", re.MULTILINE)
_MARKUP: Sequence[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in (
        # Code, formulas and comments
        (r"^[ \t>]*(?P<fence>`{3,}|~{3,}|\$\$)(?s:.*?)(?:^[ \t>]*(?P=fence)[ \t]*$|\Z)|<!--(?s:.*?)-->", "\n\n"),
        # Headings, rules, and lines with nothing but a tag or the mark of an admonition
        (r"^.+\n[ \t]*(?:={2,}|-{3,})[ \t]*$", "\n\n"),  # Headings with a line below
        (r"^[ \t>]*(?:#{1,6}(?:[ \t].*)?|[-=*_ \t]{3,}|:::.*|</?\w[^<>\n]*>)[ \t]*$", "\n\n"),
        (r"^[ \t>]*(?:[-*+]|\d{1,9}[.)])[ \t]+(?:\[[ xX]\][ \t]+)?", "\n\n"),  # Items of lists
        (r"^[ \t]*>[ \t>]*", ""),
        (r"!\[[^\[\]]*\]\([^()]*\)", ""),
        (r"\[([^\[\]]*)\]\([^()]*\)", r"\1"),
        (r"(?<![\w*])(?P<mark>\*{1,3}|_{1,3})(?=\S)([^*_]+?)(?<=\S)(?P=mark)(?![\w*])", r"\2"),
    )
]


def _prose(markdown: str) -> str:
    """Return the sentences of a passage without its Markdown; a blank line stands between blocks, items and rows."""
    text = _TABLE.sub(_rows, markdown)
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return text


def _rows(table: re.Match[str]) -> str:
    """Return each row of a table as a text of its own, in which every cell has its column's name."""
    header, _, *rows = [
        [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
        for line in table[0].splitlines()
    ]
    cells = ([": ".join(filter(None, pair)) for pair in zip(header, row, strict=False) if pair[1]] for row in rows)
    return "\n\n".join(["", *(", ".join(row) for row in cells), ""])


def _best_sentences(question: str, sentences: Sequence[str]) -> list[str]:
    """Return the few sentences that fit the question best, in the order of the text.

    A sentence fits by the words that it shares with the question. The fewer sentences have a word, the more it counts
    (inverse document frequency).
    """
    words = [_words(sentence) for sentence in sentences]
    frequency = Counter(word for sentence in words for word in sentence)
    asked = _words(question)

    def fit(index: int) -> float:
        return sum(math.log(1 + len(sentences) / frequency[word]) for word in words[index] & asked)

    best = sorted(range(len(sentences)), key=fit, reverse=True)[:_MOST_SENTENCES]
    threshold = fit(best[0]) / 2 if best else 0.0
    return [sentences[index] for index in sorted(best) if fit(index) > threshold]


def _words(text: str) -> set[str]:
    """Return the words that distinguish sentences, without case and without the s of a plural."""
    words = {word for word in re.findall(r"\w+", text.casefold()) if len(word) >= _SHORTEST_WORD}
    return {word.removesuffix("s") for word in words - _COMMON}
