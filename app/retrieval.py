"""The step before the model call: passages of the book are looked up, in which the answer may be."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from app.models import Scope

logger = logging.getLogger(__name__)

RETRIEVAL_TIMEOUT_SECONDS = 5.0
"""How long a turn waits for its passages once there is nothing else to do."""


@dataclass(frozen=True)
class Passage:
    """A piece of the book that may hold the answer."""

    text: str
    source: str
    """Its absolute address, for the reader; the model never sees it."""
    title: str


@dataclass(frozen=True)
class Findings:
    """What a retriever found, and where it looked."""

    passages: Sequence[Passage] = ()
    """Best first; those of a page in their order."""
    book_title: str | None = None
    """The title of the reader's book; None if it is not known."""
    page_title: str | None = None
    """The title of the page that the reader is on, after that of its part of the book; None if it is not known."""
    page: Literal["whole", "beginnings", "unknown"] | None = None
    """For a question about the page: whether the passages are all of it, or each section's beginning, or it is not known.

    None for other questions.
    """
    is_silent: bool = False
    """Whether the book has nothing on the question."""

    def with_only(self, passages: Sequence[Passage]) -> "Findings":
        """Return the same with only these passages, if the model cannot be sent all."""
        if len(passages) == len(self.passages):
            return self
        return replace(self, passages=passages, page="beginnings" if self.page and passages else None)


@dataclass(frozen=True)
class Query:
    """What a retriever is asked."""

    question: str
    previous_question: Awaitable[str | None]
    """The last answered question before this one, None at the beginning of a conversation.

    It can be awaited any number of times. Await it late: the conversation is read from the database at the same time.
    """
    page_url: str | None
    """The address of the page that the reader is on, if the client says so."""
    scope: Scope = "book"
    """`page` if the client says that the question is about the page."""


type Retriever = Callable[[Query], Awaitable[Sequence[Passage] | Findings]]
"""From a query to passages, best first, or to passages and what else there is to say of them."""


async def retrieve_nothing(_query: Query) -> Sequence[Passage]:
    """Return no passages: the model answers from what it knows of the book's subject."""
    return ()


class Retrieval:
    """A look-up of passages in the background; it is under way inside the `async with` block, and ends with it."""

    def __init__(self, retriever: Retriever, question: str, *, page_url: str | None, scope: Scope = "book") -> None:
        self._retriever = retriever
        self._previous_question = _PreviousQuestion()
        self._query = Query(question, self._previous_question, page_url, scope)
        self._task: asyncio.Task[Findings] | None = None

    async def __aenter__(self) -> Self:
        # A turn without a retriever does not pay for a task.
        if self._retriever is not retrieve_nothing:
            self._task = asyncio.create_task(self._retrieve())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _retrieve(self) -> Findings:
        found = await self._retriever(self._query)
        return found if isinstance(found, Findings) else Findings(list(found))

    def follow(self, previous_question: str | None) -> None:
        """Let the retriever know the question before, once the conversation has been read."""
        self._previous_question.set(previous_question)

    async def findings(self) -> Findings:
        """Return what was found; nothing if the retriever fails or is slow, and the log says why."""
        if self._task is None:
            return Findings()
        await asyncio.wait([self._task], timeout=RETRIEVAL_TIMEOUT_SECONDS)
        try:
            if not self._task.done():
                raise TimeoutError  # noqa: TRY301  # It is logged like the other failures.
            return self._task.result()
        except (Exception, asyncio.CancelledError) as error:  # The turn goes on without passages, whatever fails.
            self._task.cancel()
            logger.warning("retrieval.failed", exc_info=error)
            return Findings()


class _PreviousQuestion:
    """An awaitable that stays whole when one of those who await it is cancelled."""

    def __init__(self) -> None:
        self._known: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def set(self, question: str | None) -> None:
        self._known.set_result(question)

    def __await__(self) -> Generator[Any, None, str | None]:
        return asyncio.shield(self._known).__await__()
