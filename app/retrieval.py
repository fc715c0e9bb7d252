"""The step before the model call, in which Phase 5 looks up passages of the book."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

logger = logging.getLogger(__name__)

RETRIEVAL_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Passage:
    """A piece of the book that may hold the answer."""

    text: str
    source: str
    """Where it stands: a path or an address."""
    title: str


type Retriever = Callable[[str], Awaitable[Sequence[Passage]]]
"""From a question to passages, best first."""


async def retrieve_nothing(_question: str) -> Sequence[Passage]:
    """Return no passages: the model answers from what it knows of the book's subject."""
    return ()


async def look_up(retriever: Retriever, question: str) -> Sequence[Passage]:
    """Return the passages for the question, best first; none if the retriever fails or is slow, and the log says why."""
    try:
        async with asyncio.timeout(RETRIEVAL_TIMEOUT_SECONDS):
            return list(await retriever(question))
    except Exception as error:  # Whatever fails in a retriever, the turn goes on without passages.
        logger.warning("retrieval.failed", exc_info=error)
        return ()
