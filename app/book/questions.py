"""The embeddings of questions: asked for once, remembered for the next turn, and done without when the server fails."""

import asyncio
import hashlib
import logging
import time
from array import array
from collections import OrderedDict

from app.book.embeddings import Embedder, EmbeddingError, Vector
from app.logs import Untrusted

logger = logging.getLogger(__name__)

_REMEMBERED = 500
_LONGEST_QUESTION = 2_000
"""Of a longer question, the beginning and the end are embedded: as much as a chunk has at most."""
_FIRST_PAUSE_SECONDS = 5.0
_LONGEST_PAUSE_SECONDS = 60.0


class QuestionEmbedder:
    """Embeds questions, and remembers the latest ones: the next question of a conversation needs the one before.

    After a failure the server is left alone for a while, which grows with each further failure, so that readers do not wait for
    it. Each kind of failure is logged once, until the server answers again.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._remembered: OrderedDict[bytes, array[float]] = OrderedDict()
        self._pause = _FIRST_PAUSE_SECONDS
        self._paused_until = 0.0
        self._logged: set[str] = set()

    async def embed(self, question: str | None, deadline: float, *, may_be_late: bool = False) -> Vector | None:
        """Return what the question means; None without a question, or if that is not known by the deadline.

        The deadline is in the time of `time.monotonic`. If the caller himself may be late, missing it is no failure.
        """
        if not question:
            return None
        key = hashlib.sha256(question.encode()).digest()
        if (known := self._remembered.get(key)) is not None:
            self._remembered.move_to_end(key)
            return list(known)
        now = time.monotonic()
        if now < self._paused_until or now >= deadline:
            return None
        try:
            async with asyncio.timeout(deadline - now):
                [vector] = await self._embedder.embed([shortened(question)])
        except TimeoutError:
            if not may_be_late:
                self._fail("timeout")
            return None
        except EmbeddingError as error:
            self._fail(error.kind, str(error))
            return None
        self._pause = _FIRST_PAUSE_SECONDS
        self._logged.clear()
        self._remember(key, vector)
        return vector

    async def embed_all(self, questions: list[str]) -> None:
        """Embed all of the questions in as few requests as possible, to remember them; raises EmbeddingError."""
        vectors = await self._embedder.embed([shortened(question) for question in questions])
        for question, vector in zip(questions, vectors, strict=True):
            self._remember(hashlib.sha256(question.encode()).digest(), vector)

    def _remember(self, key: bytes, vector: Vector) -> None:
        self._remembered[key] = array("f", vector)
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)

    def _fail(self, kind: str, message: str | None = None) -> None:
        self._paused_until = time.monotonic() + self._pause
        if kind not in self._logged:
            self._logged.add(kind)
            fields = {"kind": kind, "reason": message and Untrusted(message), "retry_after_seconds": self._pause}
            logger.warning("embeddings.failed", extra={"fields": fields})
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)


def shortened(question: str) -> str:
    """Return what of the question is embedded."""
    if len(question) <= _LONGEST_QUESTION:
        return question
    half = _LONGEST_QUESTION // 2
    return f"{question[:half]}\n…\n{question[-half:]}"
