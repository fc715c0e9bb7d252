"""An OpenAI-compatible server on a real socket, which records what it is sent and fails on demand.

It answers each request with the next enqueued reply, or else with `Answer <n> to: <the last message>`. Requests for
embeddings have a queue of their own, and are answered with vectors of which those of texts with common words are close.
"""

import asyncio
import base64
import hashlib
import json
import re
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

from dirty_equals import IsStr

from tests.patience import PATIENCE_SECONDS

REQUEST_ID = "req_upstream"
RULES = {"role": "system", "content": IsStr}
"""A prompt's first message, whatever it says."""
STANDARD_HEADERS = {"x-request-id": REQUEST_ID}

type Reply = Callable[["Exchange"], Awaitable[None]]


class Exchange:
    """One request and the ways to answer it."""

    def __init__(
        self, number: int, body: dict[str, Any], headers: dict[str, str], writer: asyncio.StreamWriter
    ) -> None:
        self.number = number
        self.body = body
        self.headers = headers
        self._writer = writer

    async def respond(self, status: int, content: bytes, *, content_type: str, **headers: str) -> None:
        lines = {**STANDARD_HEADERS, "content-type": content_type, "content-length": str(len(content)), **headers}
        await self.write(self._head(status, lines) + content)

    async def start_stream(self, **headers: str) -> None:
        lines = {**STANDARD_HEADERS, "content-type": "text/event-stream", "connection": "close", **headers}
        await self.write(self._head(200, lines))

    async def event(self, data: str) -> None:
        await self.write(f"data: {data}\n\n".encode())

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def cut(self) -> None:
        """Reset the connection."""
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()

    @staticmethod
    def _head(status: int, headers: dict[str, str]) -> bytes:
        lines = [f"HTTP/1.1 {status} Reply", *(f"{name}: {value}" for name, value in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


class FakeOpenAI:
    """The server; `requests` holds the bodies and `headers` the headers that it was sent, oldest first."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.url = ""
        self.embedding_requests: list[dict[str, Any]] = []
        self.embedding_headers: list[dict[str, str]] = []
        self.embedding_paths: list[str] = []
        self.models: Reply = json_body({"data": [{"id": "gpt-6-luna"}, {"id": "text-embedding-3-small"}]})
        """How the request for the list of models is answered."""
        self._replies: deque[Reply] = deque()
        self._embedding_replies: deque[Reply] = deque()
        self._arrived = asyncio.Condition()
        self._conversations: set[asyncio.Task[None]] = set()

    def enqueue(self, *replies: Reply) -> None:
        self._replies.extend(replies)

    def forget_replies(self) -> None:
        """Answer in kind from now on."""
        self._replies.clear()

    def enqueue_embeddings(self, *replies: Reply) -> None:
        self._embedding_replies.extend(replies)

    @property
    def embedded(self) -> list[str]:
        """Every text that was to be embedded, oldest first."""
        return [text for request in self.embedding_requests for text in request["input"]]

    @property
    def prompt(self) -> list[dict[str, str]]:
        """The messages of the latest request."""
        messages: list[dict[str, str]] = self.requests[-1]["messages"]
        return messages

    async def wait_for_requests(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)

    async def wait_for_embedding_requests(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), self._arrived:
            await self._arrived.wait_for(lambda: len(self.embedding_requests) >= count)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["FakeOpenAI"]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield self
        finally:
            server.close()
            for conversation in self._conversations:
                conversation.cancel()
            await asyncio.gather(*self._conversations, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversation = asyncio.get_running_loop().create_task(self._converse(reader, writer))
        self._conversations.add(conversation)
        conversation.add_done_callback(self._conversations.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request_line, *lines = head.decode().strip().split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                content = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = request_line.split()
                if path.partition("?")[0].endswith("/models"):
                    await self.models(Exchange(0, {}, headers, writer))
                    continue
                assert method == "POST", request_line
                body = json.loads(content)
                if path.partition("?")[0].endswith("/embeddings"):
                    async with self._arrived:
                        self.embedding_requests.append(body)
                        self.embedding_headers.append(headers)
                        self.embedding_paths.append(path)
                        self._arrived.notify_all()
                    reply = self._embedding_replies.popleft() if self._embedding_replies else embeddings()
                    await reply(Exchange(len(self.embedding_requests), body, headers, writer))
                    continue
                assert path.partition("?")[0].endswith("/chat/completions"), request_line
                self.paths.append(path)
                async with self._arrived:
                    self.requests.append(body)
                    self.headers.append(headers)
                    self._arrived.notify_all()
                reply = self._replies.popleft() if self._replies else answer_in_kind
                await reply(Exchange(len(self.requests), self.requests[-1], headers, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # The client hung up.
        finally:
            writer.close()


def _completion(content: str | None, finish_reason: str | None, **message: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_790_000_000,
        "model": "gpt-6-luna",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, **message},
                "finish_reason": finish_reason,
            }
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }


def chunk(delta: dict[str, str], finish_reason: str | None = None) -> str:
    """Return a stream's event with this delta."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1_790_000_000,
            "model": "gpt-6-luna",
            "choices": [choice],
        }
    )


def question_in(content: str) -> str:
    """Return a prompt's last message without what is quoted before the question."""
    while fence := re.match(r"<(\w+-[0-9a-f]{16})[^<>]*>\n.*?\n</\1>\n\n", content, re.DOTALL):
        content = content[fence.end() :]
    return content


async def answer_in_kind(exchange: Exchange) -> None:
    """Answer `Answer <n> to: <the last message>`, streamed where a stream was asked for."""
    text = f"Answer {exchange.number} to: {question_in(exchange.body['messages'][-1]['content'])}"
    if exchange.body.get("stream"):
        await stream(*re.findall(r"\S+\s*", text))(exchange)
    else:
        await completion(text)(exchange)


def embedding(text: str, dimensions: int = 1536) -> list[float]:
    """The fake's embedding of a text: the more words two texts have in common, the closer they are."""
    vector = [0.0] * dimensions
    for word in set(re.findall(r"\w+", text.lower())):
        vector[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) % dimensions] += 1.0
    vector[0] += 0.125  # No vector is zero.
    return vector


def embeddings(dimensions: int = 1536, headers: Mapping[str, str] | None = None, **changes: Any) -> Reply:
    """Answer with the embeddings of the texts, encoded as they were asked for, and with these headers."""

    async def reply(exchange: Exchange) -> None:
        data = []
        for index, text in enumerate(exchange.body["input"]):
            vector = embedding(text, exchange.body.get("dimensions", dimensions))
            packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            encoded = packed if exchange.body.get("encoding_format") == "base64" else vector
            data.append({"object": "embedding", "index": index, "embedding": encoded})
        body = {"object": "list", "data": data, "model": exchange.body["model"], "usage": {"prompt_tokens": 3}}
        await json_body({**body, **changes}, 200, **dict(headers or {}))(exchange)

    return reply


def json_body(body: Any, status: int = 200, **headers: str) -> Reply:
    """Answer with this JSON."""
    return raw_body(json.dumps(body).encode(), "application/json", status, **headers)


def raw_body(content: bytes, content_type: str, status: int = 200, **headers: str) -> Reply:
    """Answer with these bytes."""

    async def reply(exchange: Exchange) -> None:
        await exchange.respond(status, content, content_type=content_type, **headers)

    return reply


def completion(content: str | None, finish_reason: str | None = "stop", **message: Any) -> Reply:
    """Answer with a completion."""
    return json_body(_completion(content, finish_reason, **message))


def failure(status: int, message: str = "no", code: str | None = None, **headers: str) -> Reply:
    """Answer with an error in OpenAI's form."""
    return json_body({"error": {"message": message, "type": "error", "code": code, "param": None}}, status, **headers)


def refusal() -> Reply:
    """Answer that the model will not."""
    return completion(None, refusal="I cannot help with that.")


def empty_choices() -> Reply:
    """Answer with a completion that has none."""
    return json_body({**_completion("", "stop"), "choices": []})


def html_page() -> Reply:
    """Answer as a web server does that is no API."""
    return raw_body(b"<!doctype html><title>Welcome</title>", "text/html")


async def cut(exchange: Exchange) -> None:
    """Reset the connection in the middle of the answer."""
    await exchange.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{")
    exchange.cut()


async def stall(_exchange: Exchange) -> None:
    """Never answer."""
    await asyncio.Event().wait()


def held(gate: asyncio.Event, then: Reply = answer_in_kind) -> Reply:
    """Wait for the gate, then answer."""

    async def reply(exchange: Exchange) -> None:
        await gate.wait()
        await then(exchange)

    return reply


def stream(
    *deltas: str,
    finish_reason: str | None = "stop",
    gate: asyncio.Event | None = None,
    then: Callable[[Exchange], Awaitable[None]] | None = None,
) -> Reply:
    """Stream the deltas, the second and later ones behind the gate; `then` ends the stream in its own way.

    Without a finish reason the stream just ends.
    """

    async def reply(exchange: Exchange) -> None:
        await exchange.start_stream()
        for number, delta in enumerate(deltas):
            if gate and number == 1:
                await gate.wait()
            await exchange.event(chunk({"content": delta}))
        if then:
            await then(exchange)
            return
        if finish_reason:
            await exchange.event(chunk({}, finish_reason))
            await exchange.event("[DONE]")
        await exchange.close()

    return reply


def raw_stream(*parts: bytes, end: Literal["close", "open", "unfinished chunk"] = "close") -> Reply:
    """Answer with these bytes of an event stream, one part after the other, and then end the connection in this way."""

    async def reply(exchange: Exchange) -> None:
        chunked = end == "unfinished chunk"
        await exchange.start_stream(**({"transfer-encoding": "chunked"} if chunked else {}))
        for part in parts:
            await exchange.write(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)
        if end == "open":
            await asyncio.Event().wait()
        await exchange.close()

    return reply


async def error_event(exchange: Exchange) -> None:
    """End a stream with an error event."""
    await exchange.event(json.dumps({"error": {"message": "upstream broke", "type": "server_error", "code": None}}))
    await exchange.close()


async def cut_stream(exchange: Exchange) -> None:
    """End a stream by resetting the connection."""
    exchange.cut()
