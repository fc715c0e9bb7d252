"""The step before the model call: passages of the book are looked up, in which the answer may be."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from app.models import Scope

logger = logging.getLogger(__name__)

RETRIEVAL_TIMEOUT_SECONDS = 5.0
"""How long a turn waits for its passages once there is nothing else to do."""

_MOST_WATCHED = 20
"""Of how many look-ups it is remembered how they went."""


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
    is_lost: bool = False
    """Whether the search failed or was too slow, so that nobody knows what the book has on the question."""

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


class RetrievalWatch:
    """Remembers how the last look-ups of this process went."""

    def __init__(self) -> None:
        self._losses: deque[bool] = deque(maxlen=_MOST_WATCHED)

    def add(self, *, is_lost: bool) -> None:
        """Remember one more."""
        self._losses.append(is_lost)

    @property
    def losses(self) -> dict[str, int]:
        """How many of the last look-ups were lost, as fields of a record; none if no more than one was."""
        lost = sum(self._losses)
        return {"retrievals": len(self._losses), "retrievals_lost": lost} if lost > 1 else {}


class Retrieval:
    """A look-up of passages in the background; it is under way inside the `async with` block, and ends with it."""

    def __init__(
        self,
        retriever: Retriever,
        question: str,
        *,
        page_url: str | None,
        scope: Scope = "book",
        watch: RetrievalWatch | None = None,
    ) -> None:
        self._retriever = retriever
        self._watch = watch or RetrievalWatch()
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
        """Return what was found; if the retriever fails or is slow, say that it is lost, and the log says why."""
        if self._task is None:
            return Findings()
        found = await self._await_findings(self._task)
        self._watch.add(is_lost=found.is_lost)
        return found

    @staticmethod
    async def _await_findings(task: asyncio.Task[Findings]) -> Findings:
        await asyncio.wait([task], timeout=RETRIEVAL_TIMEOUT_SECONDS)
        try:
            if not task.done():
                raise TimeoutError  # noqa: TRY301  # It is logged like the other failures.
            return task.result()
        except (Exception, asyncio.CancelledError) as error:  # The turn goes on without passages, whatever fails.
            task.cancel()
            logger.warning("retrieval.failed", exc_info=error)
            return Findings(is_lost=True)


class _PreviousQuestion:
    """An awaitable that stays whole when one of those who await it is cancelled."""

    def __init__(self) -> None:
        self._known: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def set(self, question: str | None) -> None:
        self._known.set_result(question)

    def __await__(self) -> Generator[Any, None, str | None]:
        return asyncio.shield(self._known).__await__()
