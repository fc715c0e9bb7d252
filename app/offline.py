"""The offline stand-in for the model, for development without an API key: it only quotes, and says so.

It is a transport under the real client, so requests, parsing and streaming are the SDK's own. It knows nothing: an answer
consists of those sentences from the excerpt or the passages in the prompt that fit the question best.
"""

import json
import math
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, override

import httpx2

PREFACE = "[Offline stand-in, not a language model]"

_FENCED = re.compile(r"<(?P<tag>(?:excerpt|passage)-\w+)[^>]*>\n(?P<text>.*?)\n</(?P=tag)>\n\n", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?。؟\u06d4])\s+|\n\s*\n")
_MOST_SENTENCES = 3
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
    sentences = _best_sentences(question, [s.strip() for text in texts for s in _SENTENCE_END.split(text) if s.strip()])
    if not sentences:
        return f"{PREFACE} The text does not say: none of its sentences shares a word with the question."
    return f"{PREFACE} The closest sentences of the text: {' '.join(sentences)}"


def _quoted(content: str) -> tuple[list[str], str]:
    """Return the fenced texts at the beginning of a message, and the question after them."""
    texts, end = [], 0
    while match := _FENCED.match(content, end):
        texts.append(match["text"])
        end = match.end()
    return texts, content[end:]


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
