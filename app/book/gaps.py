"""What the book could not answer: questions that ask for much the same, together."""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import combinations
from statistics import fmean
from typing import Any, Literal, NamedTuple

from sqlalchemy import Row

from app.book.embeddings import Embedder, EmbeddingError, Vector
from app.book.questions import shortened
from app.book.words import searchable, without_common
from app.config import Settings

MOST_QUESTIONS = 2_000
"""How many different questions are grouped at most: the latest ones."""
_CLOSEST = 5
"""How many groups a question is compared with in full, and with how many questions of each."""
_ALIKE_IN_WORDS = 0.5
_ALIKE_IN_MEANING = 0.5
"""How far the cosine of two questions lies between that of unrelated questions (0) and that of equal ones (1)."""
_UNRELATED = (
    "How do I bake bread without yeast?",
    "What is the capital of Australia?",
    "When does the last train leave?",
    "Which vaccine do I need for my dog?",
    "Who wrote the first symphony in a minor key?",
    "Why did the bank refuse my loan?",
    "How is silk made?",
)
"""Models differ in how close to each other they put questions that have nothing in common."""

type Reason = Literal["nothing_found", "not_cited", "negative"]
"""No passage was found; none of those that were found is cited; the reader was not content."""


@dataclass
class AskedGap:
    """A question that the book could not answer, as often as it was asked in these words."""

    text: str
    last_asked: datetime
    reasons: Counter[Reason] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """How often it was asked."""
        return self.reasons.total()


@dataclass(frozen=True)
class Gap:
    """Questions that ask for much the same, the most frequent first."""

    questions: Sequence[AskedGap]

    @property
    def count(self) -> int:
        """How often they were asked together."""
        return self.reasons.total()

    @property
    def reasons(self) -> Counter[Reason]:
        """Why they count as not answered, and how often."""
        return sum((question.reasons for question in self.questions), Counter())

    @property
    def last_asked(self) -> datetime:
        """When the last of them was asked."""
        return max(question.last_asked for question in self.questions)


class AskedGaps:
    """The different questions among those that the book could not answer, which are added the newest first."""

    def __init__(self) -> None:
        self._questions: dict[str, AskedGap] = {}
        self._is_cut = False

    def add(self, turn: Row[Any]) -> None:
        """Add a turn of the report."""
        key = " ".join(searchable(turn.question).casefold().split()) or turn.question
        if key not in self._questions:
            if len(self._questions) >= MOST_QUESTIONS:
                self._is_cut = True
                return
            self._questions[key] = AskedGap(turn.question, turn.created_at)
        self._questions[key].reasons[_reason(turn)] += 1

    async def grouped(self, settings: Settings, note: Callable[[str], None]) -> list[Gap]:
        """Return the questions in groups, the most frequent first: by what they mean, or else by their words.

        What the groups do not say is noted: that there are no embeddings, or that there were more questions.
        """
        if self._is_cut:
            note(f"Only the latest {MOST_QUESTIONS:,} different questions are grouped.")
        embedder = Embedder(settings)
        if not embedder.is_available:
            note("OPENAI_API_KEY is not set, so the questions are grouped by their words.")
            return self.grouped_by_words()
        try:
            return await self.grouped_by_meaning(embedder)
        except EmbeddingError as error:
            note(f"{embedder.model} gave no embeddings ({error.kind}), so the questions are grouped by their words.")
            return self.grouped_by_words()
        finally:
            await embedder.close()

    async def grouped_by_meaning(self, embedder: Embedder) -> list[Gap]:
        """Return the questions in groups by what they mean; raises EmbeddingError."""
        questions = list(self._questions.values())
        vectors = await embedder.embed([*_UNRELATED, *(shortened(question.text) for question in questions)])
        unrelated = fmean(math.sumprod(*pair) for pair in combinations(vectors[: len(_UNRELATED)], 2))
        centre = [fmean(numbers) for numbers in zip(*vectors, strict=True)]
        return _in_groups(
            questions,
            [_Meaning(vector, _signs(vector, centre)) for vector in vectors[len(_UNRELATED) :]],
            likeness=lambda one, other: math.sumprod(one.vector, other.vector),
            estimate=lambda one, other: -(one.signs ^ other.signs).bit_count(),
            least=unrelated + _ALIKE_IN_MEANING * (1 - unrelated),
        )

    def grouped_by_words(self) -> list[Gap]:
        """Return the questions in groups by the words that they have in common."""
        questions = list(self._questions.values())
        words = [_words(question.text) for question in questions]
        in_questions = Counter(word for each in words for word in each)
        weights = [_weighted(each, in_questions, len(questions)) for each in words]
        return _in_groups(questions, weights, likeness=_shared, estimate=_shared, least=_ALIKE_IN_WORDS)


def _reason(turn: Row[Any]) -> Reason:
    if turn.feedback == "negative":
        return "negative"
    return "not_cited" if turn.retrieved else "nothing_found"


class _Meaning(NamedTuple):
    vector: Vector
    signs: int
    """On which side of the centre the vector is, one bit for each dimension: the more of them two share, the closer they are."""


def _signs(vector: Vector, centre: Vector) -> int:
    return int("".join("01"[number < middle] for number, middle in zip(vector, centre, strict=True)), 2)


def _words(question: str) -> set[str]:
    """Return the words of its subject, without the ending that most plurals have."""
    words = searchable(question).lower().split()
    return {word.removesuffix("s") for word in without_common(words) or words}


def _weighted(words: Iterable[str], in_questions: Counter[str], questions: int) -> dict[str, float]:
    """Return the words as a vector of length 1, in which rare ones weigh more."""
    weights = {word: math.log(1 + questions / in_questions[word]) for word in words}
    length = math.hypot(*weights.values())
    return {word: weight / length for word, weight in weights.items()}


def _shared(one: dict[str, float], other: dict[str, float]) -> float:
    return sum(one[word] * other[word] for word in one.keys() & other.keys())


def _in_groups[T](
    questions: Sequence[AskedGap],
    features: Sequence[T],
    *,
    likeness: Callable[[T, T], float],
    estimate: Callable[[T, T], float],
    least: float,
) -> list[Gap]:
    """Put each question into the group whose questions are most like it, or begin another one with it."""
    groups: list[list[int]] = []
    for index, feature in enumerate(features):
        closest = heapq.nlargest(_CLOSEST, groups, key=lambda group: estimate(feature, features[group[0]]))
        rated = [
            (fmean(likeness(feature, features[member]) for member in group[:_CLOSEST]), group) for group in closest
        ]
        best, group = max(rated, key=lambda each: each[0], default=(-math.inf, []))
        if best >= least:
            group.append(index)
        else:
            groups.append([index])
    gaps = [Gap(sorted((questions[index] for index in group), key=lambda each: -each.count)) for group in groups]
    return sorted(gaps, key=lambda gap: (-gap.count, -gap.last_asked.timestamp()))
