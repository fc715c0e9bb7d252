"""A model server that uses little CPU time itself: one process, a fixed answer, and a delay that the question sets.

`python -m benchmarks.model PORT` answers `POST /v1/chat/completions` and `POST /v1/embeddings`. The last message's first word is the delay in
milliseconds, if it is a number. A streamed answer's first piece is the time at which it was sent, in nanoseconds of the monotonic clock.
"""

import asyncio
import base64
import json
import math
import random
import sys
import time
from array import array
from functools import cache
from operator import add

import uvloop

_COMPLETION = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "gpt-6-luna",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "A humanoid robot has a body shaped like a human's. " * 8},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 500, "completion_tokens": 100, "total_tokens": 600},
    }
).encode()
_WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
    len(_COMPLETION),
    _COMPLETION,
)
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def _event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": "gpt-6-luna",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
    }
    return _chunked(f"data: {json.dumps(chunk)}\n\n".encode())


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


DIMENSIONS = 1_536
LATENT = 48
TOPICS = 256
SPREAD = 0.8
"""How far the texts of a topic are from its middle, whose own coordinates are of the size of 1."""
_ASIDES = 997


@cache
def axes() -> list[list[float]]:
    """Return what makes a vector of a text's few coordinates; embeddings of real texts fill few of their dimensions too."""
    numbers = random.Random("axes")
    return [[numbers.gauss() for _ in range(LATENT)] for _ in range(DIMENSIONS)]


@cache
def middle(topic: int) -> list[float]:
    """Return the coordinates of what the texts of a topic have in common."""
    numbers = random.Random(f"topic {topic}")
    return [numbers.gauss() for _ in range(LATENT)]


@cache
def _in_topic(topic: int) -> list[float]:
    return _at(middle(topic))


@cache
def _aside(number: int) -> list[float]:
    numbers = random.Random(f"aside {number}")
    return _at([SPREAD * numbers.gauss() for _ in range(LATENT)])


def _at(place: list[float]) -> list[float]:
    return [math.sumprod(place, axis) for axis in axes()]


def embedding(text: str) -> array[float]:
    """Return a vector that depends on the text and on nothing else, near those of one of the topics.

    It is put together from two parts that many texts share: it must not take longer than what is measured.
    """
    numbers = random.Random(text)
    vector = list(map(add, _in_topic(numbers.randrange(TOPICS)), _aside(numbers.randrange(_ASIDES))))
    length = math.hypot(*vector)
    return array("f", [number / length for number in vector])


def _embed(texts: list[str], writer: asyncio.StreamWriter) -> None:
    vectors = (base64.b64encode(embedding(text).tobytes()).decode() for text in texts)
    content = json.dumps({"data": [{"index": index, "embedding": data} for index, data in enumerate(vectors)]}).encode()
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(content), content)
    )


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = json.loads(await reader.readexactly(length))
            if "input" in body:
                _embed(body["input"], writer)
                continue
            # With passages of a book before it, a question delays nothing.
            first = body["messages"][-1]["content"].split()[0]
            await asyncio.sleep(int(first) / 1000 if first.isdigit() else 0)
            if body.get("stream"):
                writer.write(_STREAM + _event({"content": f"{time.monotonic_ns()} "}))
                await asyncio.sleep(0.02)
                writer.write(_event({"content": "it walks."}) + _event({}, "stop") + _chunked(b"data: [DONE]\n\n"))
                writer.write(b"0\r\n\r\n")
            else:
                writer.write(_WHOLE)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _serve(port: int) -> None:
    server = await asyncio.start_server(_converse, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
