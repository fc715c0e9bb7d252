"""The step before the model call, in which Phase 5 looks up passages of the book."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Passage:
    """A piece of the book that may hold the answer."""

    text: str
    source: str
    """Where it stands: a path or an address."""
    title: str
    score: float
    """How well it fits the question; more is better."""


type Retriever = Callable[[str], Awaitable[Sequence[Passage]]]
"""From a question to passages, best first."""


async def retrieve_nothing(_question: str) -> Sequence[Passage]:
    """Return no passages: the model answers from what it knows of the book's subject."""
    return ()
