"""How often the right page is found: the search on questions whose right pages are known."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import unquote

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from app.book.search import PASSAGES, BookSearch, Hit
from app.book.shelf import comparable
from app.commands import CommandError
from app.models import Scope
from app.retrieval import Passage, Query

CUTOFFS = (1, 5, 10)
"""Among how many chunks the right page is looked for."""
_BATCH = 200
"""How many questions are embedded at once."""


class QuestionsError(CommandError):
    """The file holds no questions that can be evaluated; the message says why."""


Phrase = Annotated[str, Field(min_length=1)]


class Question(BaseModel):
    """A question whose right pages are known."""

    model_config = ConfigDict(extra="ignore")

    question: str = Field(min_length=1)
    pages: list[str] = []
    """The addresses of the pages with the answer; one of them is enough."""
    section: str | None = None
    """The address of the section with the answer."""
    previous_question: str | None = None
    page_url: str | None = None
    """The page that the reader is on, for a question about it, whose passages are to be the page's own."""
    scope: Scope = "book"
    contents: list[Phrase] = []
    """For a question about the book's structure, what the table of contents says on it: all of it."""

    @model_validator(mode="after")
    def _can_be_judged(self) -> Self:
        if not (self.pages or self.page_url or self.contents):
            raise ValueError("needs pages, a page_url or contents")
        if self.scope == "page" and not self.page_url:
            raise ValueError("needs a page_url if its scope is page")
        return self

    @property
    def has_place(self) -> bool:
        """Whether it is about the page or the book's structure."""
        return bool(self.page_url or self.contents)


@dataclass(frozen=True)
class PlaceOutcome:
    """What became of a question about the page or about the book's structure."""

    question: Question
    passages: Sequence[Passage]

    @property
    def share_of_page(self) -> float:
        """Which share of the passages is the page's."""
        page = comparable(self.question.page_url or "")
        return sum(comparable(passage.source) == page for passage in self.passages) / max(1, len(self.passages))

    @property
    def has_contents(self) -> bool:
        """Whether the passages say what the table of contents does."""
        text = "\n".join(f"{passage.title}\n{passage.text}" for passage in self.passages)
        return all(phrase in text for phrase in self.question.contents)

    @property
    def is_right(self) -> bool:
        """Whether the model would be sent what it needs, and of the page nothing else."""
        return self.has_contents and (
            not self.question.page_url or bool(self.question.contents) or self.share_of_page == 1
        )


@dataclass(frozen=True)
class Outcome:
    """What became of a question."""

    question: Question
    hits: Sequence[Hit]

    @property
    def rank(self) -> int | None:
        """The place of the first chunk of a right page, from 1; None if there is none."""
        right = {comparable(page) for page in self.question.pages}
        return next((place for place, hit in enumerate(self.hits, 1) if comparable(hit.page) in right), None)

    @property
    def has_section(self) -> bool:
        """Whether the right section is among the passages that the model would be sent."""
        wanted = unquote(self.question.section or "")
        return any(unquote(hit.source) == wanted for hit in self.hits[:PASSAGES])


class AnswerQuestion(BaseModel):
    """A question, and what its answer must and must not say."""

    model_config = ConfigDict(extra="forbid")

    question: str = Field(min_length=1)
    previous_question: str | None = None
    selected_text: str | None = None
    """The excerpt that the answer has to keep to."""
    pages: list[str] = []
    """The pages of which the answer must cite one at least."""
    declines: bool = False
    """Whether the book does not say, so that the answer must cite nothing."""
    says: list[Phrase] = []
    """What the answer must say: all of it, whatever its case. Of `a|b`, one is enough."""
    does_not_say: list[Phrase] = []
    """What it must not say; with an excerpt, what only other knowledge could tell."""

    @model_validator(mode="after")
    def _can_hold(self) -> Self:
        if self.declines and self.pages:
            raise ValueError("declines, and has pages")
        return self


def _kind(item: Any) -> str:
    """Return which of the two a question is: one for the search, or one for the model."""
    return "answer" if isinstance(item, dict) and item.keys() & _OF_ANSWERS else "search"


_OF_ANSWERS = {"selected_text", "declines", "says", "does_not_say"}
_Any = Annotated[Annotated[Question, Tag("search")] | Annotated[AnswerQuestion, Tag("answer")], Discriminator(_kind)]
_QUESTION = TypeAdapter[Question | AnswerQuestion](_Any)
_QUESTIONS = TypeAdapter(list[_Any])


def read_questions(file: Path) -> tuple[list[Question], list[AnswerQuestion]]:
    """Return the questions of a file: a JSON object on each line, or a JSON list of them.

    Those with `says`, `does_not_say`, `declines` or `selected_text` are for the model, and the others for the search.
    Raises QuestionsError.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise QuestionsError(f"{file} cannot be read: {error}") from error
    try:
        if text.lstrip().startswith("["):
            items = _QUESTIONS.validate_json(text)
        else:
            items = []
            for number, line in enumerate(text.splitlines(), 1):
                if line.strip():
                    items.append(_read_line(line, f"{file}, line {number}"))
    except ValidationError as error:
        raise QuestionsError(f"{file}: {_reason(error)}") from error
    if not items:
        raise QuestionsError(f"{file} has no questions.")
    return [item for item in items if isinstance(item, Question)], [
        item for item in items if isinstance(item, AnswerQuestion)
    ]


def _read_line(line: str, place: str) -> Question | AnswerQuestion:
    try:
        return _QUESTION.validate_json(line)
    except ValidationError as error:
        raise QuestionsError(f"{place}: {_reason(error)}") from error


def _reason(error: ValidationError) -> str:
    first = error.errors(include_input=False)[0]
    place = [str(part) for part in first["loc"] if part not in {"search", "answer"}]  # Those are our own tags.
    return f"{'.'.join(place)} {first['msg'].removeprefix('Value error, ')}".strip()


async def evaluate(search: BookSearch, questions: Sequence[Question], *, by_meaning: bool) -> list[Outcome]:
    """Search for each question; raises DatabaseError, and EmbeddingError if the questions cannot be embedded."""
    outcomes = []
    for batch in batched(questions, _BATCH):
        if by_meaning:
            texts = [text for question in batch for text in (question.question, question.previous_question) if text]
            await search.questions.embed_all(texts)
        for question in batch:
            query = Query(question.question, known(question.previous_question), page_url=None)
            hits = await search.search(query, limit=max(CUTOFFS), by_meaning=by_meaning)
            outcomes.append(Outcome(question, hits))
    return outcomes


async def evaluate_places(search: BookSearch, questions: Sequence[Question], *, by_meaning: bool) -> list[PlaceOutcome]:
    """Look up what the model would be sent for each question; raises as `evaluate` does."""
    if by_meaning and (texts := [question.question for question in questions if question.contents]):
        await search.questions.embed_all(texts)
    outcomes = []
    for question in questions:
        query = Query(question.question, known(question.previous_question), question.page_url, question.scope)
        found = await search(query, by_meaning=by_meaning)
        outcomes.append(PlaceOutcome(question, found.passages))
    return outcomes


def known(previous_question: str | None) -> asyncio.Future[str | None]:
    """Return what a query awaits, for a previous question that is known already."""
    future = asyncio.get_running_loop().create_future()
    future.set_result(previous_question)
    return future


def figures(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Return the shares of questions whose right page, or section, is found, and the mean reciprocal rank of the page."""
    ranks = [outcome.rank for outcome in outcomes]
    shares = {
        f"recall@{cutoff}": sum(rank is not None and rank <= cutoff for rank in ranks) / len(ranks)
        for cutoff in CUTOFFS
    }
    found: dict[str, float] = {**shares, "mrr": sum(1 / rank for rank in ranks if rank) / len(ranks)}
    if with_section := [outcome for outcome in outcomes if outcome.question.section]:
        found["section"] = sum(outcome.has_section for outcome in with_section) / len(with_section)
    return found


def place_figures(outcomes: Sequence[PlaceOutcome]) -> dict[str, float]:
    """Return the mean share of passages that are the page's, and the share of questions that the table of contents answers."""
    pages = [outcome.share_of_page for outcome in outcomes if not outcome.question.contents]
    contents = [outcome.has_contents for outcome in outcomes if outcome.question.contents]
    return {
        **({"page": sum(pages) / len(pages)} if pages else {}),
        **({"contents": sum(contents) / len(contents)} if contents else {}),
    }


def place_failures(outcomes: Sequence[PlaceOutcome]) -> list[dict[str, Any]]:
    """Return the questions for which the model would not be sent the page, or not what the table of contents says."""
    return [
        {
            "question": outcome.question.question,
            "pages": [outcome.question.page_url] if outcome.question.page_url else outcome.question.contents,
            "rank": None,
            "found": list(dict.fromkeys(passage.source for passage in outcome.passages)),
        }
        for outcome in outcomes
        if not outcome.is_right
    ]


def failures(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return the questions whose right page is not among the passages that the model would be sent, and what is instead."""
    return [
        {
            "question": outcome.question.question,
            "pages": outcome.question.pages,
            "rank": outcome.rank,
            "found": list(dict.fromkeys(hit.page for hit in outcome.hits[:PASSAGES])),
        }
        for outcome in outcomes
        if outcome.rank is None or outcome.rank > PASSAGES
    ]


def unknown_pages(questions: Sequence[Question | AnswerQuestion], pages: set[str]) -> list[str]:
    """Return the right pages that the book does not have, each once."""
    known_pages = {comparable(page) for page in pages}
    named = dict.fromkeys(
        page for question in questions for page in (*question.pages, getattr(question, "page_url", None)) if page
    )
    return [page for page in named if comparable(page) not in known_pages]


def as_table(columns: dict[str, dict[str, float]]) -> str:
    """Return the figures for people: a row for each, a column for each way of searching."""
    names = list(next(iter(columns.values())))
    lines = [f"{'':<24}" + "".join(f"{name:>20}" for name in columns)]
    for name in names:
        values = (f"{found[name]:.2f}" if name == "mrr" else f"{found[name]:.0%}" for found in columns.values())
        lines.append(f"{_LABELS.get(name, name):<24}" + "".join(f"{value:>20}" for value in values))
    return "\n".join(lines)


_LABELS = {
    "mrr": "MRR",
    "section": f"section among {PASSAGES}",
    "page": "passages of the page",
    "contents": "contents found",
}


def dumped(
    questions: int,
    columns: dict[str, dict[str, float]],
    failed: Sequence[dict[str, Any]],
    held: dict[str, tuple[int, int]],
    failed_checks: Sequence[dict[str, Any]],
) -> str:
    """Return the figures for programs."""
    rounded = {name: {key: round(value, 4) for key, value in found.items()} for name, found in columns.items()}
    found: dict[str, Any] = {"questions": questions, **rounded, "failed": failed}
    if held or failed_checks:
        counts = {name: {"held": count, "asked": asked} for name, (count, asked) in held.items()}
        found["answers"] = {**counts, "failed": failed_checks}
    return json.dumps(found, ensure_ascii=False, indent=2)
