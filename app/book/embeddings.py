"""Embeddings: what a text means, as a vector, from OpenAI's endpoint or a compatible one."""

import asyncio
import base64
import json
import math
import re
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus
from itertools import chain
from typing import Any

import httpx2
from openai import APIStatusError, AsyncOpenAI, OpenAIError

from app.completions import provider_error
from app.config import Settings
from app.models import EMBEDDING_DIMENSIONS
from app.provider import endpoint, openai_client

MOST_BYTES = 300_000
"""The most that one request embeds: OpenAI takes 300,000 tokens, and no token is shorter than a byte."""
MOST_INPUTS = 2_048

PRICES = {"text-embedding-3-small": 0.02, "text-embedding-3-large": 0.13, "text-embedding-ada-002": 0.10}
"""What a million tokens cost at OpenAI, in dollars."""
_LEAST_LEFT = 0.02
"""If less of a limit than this is left, the next request waits until it is full again."""
_MAX_WAIT_SECONDS = 120.0

_REFUSALS = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY})
_LONG_MODELS = ("text-embedding-3-large", "gemini-embedding-001")
"""Models whose vectors are too long unless fewer dimensions are asked for; others show it in their first answer."""

type Vector = list[float]


class EmbeddingError(Exception):
    """The endpoint gave no embeddings; the message can quote the texts."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        """What went wrong, without anybody's words: a status, or the name of an exception."""


class Embedder:
    """Embeds texts with the model of the settings; the client is made when it is first needed.

    Servers differ in what they accept, so what one refuses is left out from then on: the compact encoding, or many texts in
    one request.
    """

    def __init__(self, settings: Settings) -> None:
        self.model = settings.openai_embedding_model
        self.is_available = settings.openai_api_key is not None
        """Whether there is a key; without one, nothing can be embedded."""
        self._settings = settings
        self._client: AsyncOpenAI | None = None
        self._options: dict[str, Any] = {"encoding_format": "base64"}
        self._options_are_known = False
        if self.model.rpartition("/")[2].startswith(_LONG_MODELS):
            self._options["dimensions"] = EMBEDDING_DIMENSIONS
        self._most_inputs = MOST_INPUTS
        self.tokens = 0
        """How many tokens the server says it has embedded."""
        self._resume_at = 0.0
        """When a server that limits how much it is asked may be asked again."""

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Return the meaning of each text: vectors of length 1, with as many dimensions as the model has, at most 1,536.

        Raises EmbeddingError.
        """
        vectors = [vector for batch in self.batches(texts) for vector in await self._embed_in_parts(batch)]
        if len({len(vector) for vector in vectors}) > 1:
            raise EmbeddingError("malformed", "The embeddings do not all have the same number of dimensions.")
        return vectors

    def batches(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """Yield the texts, in their order, in the parts that are sent in one request each."""
        batch: list[str] = []
        size = 0
        for text in texts:
            length = len(text.encode())
            if batch and (size + length > MOST_BYTES or len(batch) >= self._most_inputs):
                yield batch
                batch, size = [], 0
            batch.append(text)
            size += length
        if batch:
            yield batch

    async def _embed_in_parts(self, texts: list[str]) -> list[Vector]:
        """Embed the texts in one request, or in ever smaller ones if the server refuses so many."""
        try:
            return await self._embed(texts)
        except _RefusedError:
            if len(texts) == 1:
                raise
        self._most_inputs = min(self._most_inputs, (len(texts) + 1) // 2)
        parts = [texts[: self._most_inputs], texts[self._most_inputs :]]
        return list(chain.from_iterable([await self._embed_in_parts(part) for part in parts]))

    async def _embed(self, texts: list[str]) -> list[Vector]:
        vectors = await self._request(texts)
        if len(vectors[0]) > EMBEDDING_DIMENSIONS and "dimensions" not in self._options:
            self._options["dimensions"] = EMBEDDING_DIMENSIONS
            vectors = await self._request(texts)
        if len(vectors[0]) > EMBEDDING_DIMENSIONS:
            raise EmbeddingError(
                "dimensions",
                f"The model {self.model} gives {len(vectors[0])} dimensions, also when asked for "
                f"{EMBEDDING_DIMENSIONS}, which is the most that the database holds.",
            )
        return [_of_length_1(vector) for vector in vectors]

    async def _request(self, texts: list[str]) -> list[Vector]:
        try:
            vectors = await self._post(texts)
        except _RefusedError:
            if self._options_are_known or "encoding_format" not in self._options:
                raise
            without = {name: value for name, value in self._options.items() if name != "encoding_format"}
            before, self._options = self._options, without
            try:
                vectors = await self._post(texts)
            except EmbeddingError:
                self._options = before  # That was not the reason.
                raise
        self._options_are_known = True
        return vectors

    async def _post(self, texts: list[str]) -> list[Vector]:
        if self._client is None:
            self._client = openai_client(self._settings)
        url = endpoint(self._client, "embeddings")
        body = {"model": self.model, "input": texts, **self._options}
        if (wait := self._resume_at - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        try:
            # The server bounds each call itself, and a batch may take longer than a question.
            response = await self._client.post(url, cast_to=httpx2.Response, body=body)
            answer = json.loads(response.content)
            vectors = _vectors(answer, len(texts))
        except APIStatusError as error:
            said = provider_error(_parsed(error.response)).message or error.message
            refused = error.status_code in _REFUSALS
            raise (_RefusedError if refused else EmbeddingError)(str(error.status_code), said) from error
        except (OpenAIError, httpx2.HTTPError) as error:
            raise EmbeddingError(type(error).__name__, str(error.__cause__ or error)) from error
        except (ValueError, RecursionError) as error:
            raise EmbeddingError("malformed", f"The answer is not one of embeddings: {error}") from error
        self._note_limits(response.headers, answer)
        return vectors

    def _note_limits(self, headers: httpx2.Headers, answer: Any) -> None:
        """Count the tokens, and wait with the next request if the server says that nothing is left until then."""
        usage = answer.get("usage")
        tokens = usage.get("total_tokens", usage.get("prompt_tokens")) if isinstance(usage, dict) else None
        self.tokens += tokens if isinstance(tokens, int) else 0
        for kind in ("requests", "tokens"):
            left, limit = (headers.get(f"x-ratelimit-{name}-{kind}", "") for name in ("remaining", "limit"))
            if left.isdecimal() and limit.isdecimal() and int(left) < _LEAST_LEFT * int(limit):
                wait = _seconds(headers.get(f"x-ratelimit-reset-{kind}", ""))
                self._resume_at = max(self._resume_at, time.monotonic() + min(wait, _MAX_WAIT_SECONDS))

    async def close(self) -> None:
        """Close every connection."""
        if self._client is not None:
            await self._client.close()


class _RefusedError(EmbeddingError):
    """The server understood who asks, but not what."""


def padded(vector: Sequence[float]) -> Vector:
    """Return the vector as the database holds it: with zeros after it, which change no cosine."""
    return [*vector, *[0.0] * (EMBEDDING_DIMENSIONS - len(vector))]


def _seconds(duration: str) -> float:
    """Return how long a duration such as `1m2.5s` or `120ms` is."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0}
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)", duration)
    return sum(float(number) * units[unit] for number, unit in parts)


def _parsed(response: httpx2.Response) -> Any:
    try:
        return response.json()
    except (ValueError, RecursionError):
        return response.text


def _vectors(body: Any, count: int) -> list[Vector]:
    """Return the embeddings of an answer in the order of their texts; raises ValueError if it is none."""
    items = body.get("data") if isinstance(body, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError((isinstance(body, dict) and provider_error(body).message) or "it has no list of them")
    if len(items) != count:
        raise ValueError(f"it has {len(items)} for {count} texts")
    # Some servers number all of them 0, or none.
    if sorted(str(item.get("index")) for item in items) == sorted(map(str, range(count))):
        items = sorted(items, key=lambda item: int(item["index"]))
    vectors = [_vector(item.get("embedding")) for item in items]
    if not vectors[0] or any(len(vector) != len(vectors[0]) for vector in vectors):
        raise ValueError("they do not all have the same number of dimensions")
    return vectors


def _vector(value: Any) -> Vector:
    if isinstance(value, str):
        data = base64.b64decode(value, validate=True)
        if len(data) % 4:
            raise ValueError("the encoded floats are cut")
        return list(struct.unpack(f"<{len(data) // 4}f", data))
    if not isinstance(value, list) or not all(isinstance(number, (int, float)) for number in value):
        raise ValueError("an embedding is not a list of numbers")
    return value


def _of_length_1(vector: Vector) -> Vector:
    length = math.sqrt(math.sumprod(vector, vector))
    if not (length > 0 and math.isfinite(length)):
        raise EmbeddingError("malformed", "An embedding is zero or not finite.")
    return [number / length for number in vector]
