"""Whether answers hold: the configured model on questions for which it is known what an answer must and must not say."""

import asyncio
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.book.evaluation import AnswerQuestion
from app.book.shelf import comparable
from app.chat import ask_model, look_up
from app.citations import without_markers
from app.config import Settings
from app.conversations import Answer
from app.errors import ModelError
from app.llm import LanguageModel
from app.models import ChatRequest
from app.prompt import PastTurn
from app.retrieval import Retriever

_AT_ONCE = 4
"""How many questions the model is asked at the same time."""

CHECKS = {
    "cites": "cites a right page",
    "declines": "cites nothing where the book does not say",
    "says": "says what it must",
    "does_not_say": "does not say what it must not",
    "keeps_to_excerpt": "keeps to the excerpt",
}
"""What is checked, in the words of the report."""


@dataclass(frozen=True)
class Checked:
    """An answer, and what of it held."""

    question: AnswerQuestion
    answer: str
    held: dict[str, bool] = field(default_factory=dict)
    """For each check that applies whether it held; none if the model failed."""


async def check_answers(retriever: Retriever, settings: Settings, questions: Sequence[AnswerQuestion]) -> list[Checked]:
    """Ask the model each question as a turn does, with the passages of the retriever, and check its answers."""
    model = LanguageModel(settings)
    places = asyncio.Semaphore(_AT_ONCE)

    async def check(question: AnswerQuestion) -> Checked:
        async with places:
            return await _check(retriever, model, settings, question)

    try:
        return await asyncio.gather(*map(check, questions))
    finally:
        await model.close()


async def _check(retriever: Retriever, model: LanguageModel, settings: Settings, question: AnswerQuestion) -> Checked:
    async def ask(request: ChatRequest, history: Sequence[PastTurn]) -> Answer:
        async with look_up(request, retriever) as retrieval:
            retrieval.follow(history[-1].question if history else None)
            return await ask_model(request, history, retrieval, model=model, settings=settings)

    history = []
    try:
        if previous := question.previous_question:
            before = await ask(ChatRequest(message=previous), [])
            history.append(PastTurn(previous, None, without_markers(before.text)))
        answer = await ask(ChatRequest(message=question.question, selected_text=question.selected_text), history)
    except ModelError as error:
        return Checked(question, f"no answer: {error.message}")
    pages = {comparable(source["url"]) for source in answer.sources}
    return Checked(question, answer.text, dict(_checks(question, answer.text, pages)))


def _checks(question: AnswerQuestion, answer: str, pages: set[str]) -> Iterator[tuple[str, bool]]:
    if question.pages:
        yield "cites", not pages.isdisjoint(map(comparable, question.pages))
    if question.declines:
        yield "declines", not pages
    if question.says:
        yield "says", all(any(_says(answer, part) for part in phrase.split("|")) for phrase in question.says)
    if question.does_not_say:
        name = "keeps_to_excerpt" if question.selected_text else "does_not_say"
        yield name, not any(_says(answer, phrase) for phrase in question.does_not_say)


def _says(answer: str, phrase: str) -> bool:
    """Whether the answer has the phrase as whole words, however they are spaced and written."""
    words = r"\W+".join(map(re.escape, phrase.casefold().split()))
    return re.search(rf"(?<!\w){words}(?!\w)", answer.casefold()) is not None


def held(checked: Sequence[Checked]) -> dict[str, tuple[int, int]]:
    """Return for each check how often it held, and how often it applied."""
    counts = {}
    for name in CHECKS:
        outcomes = [answer.held[name] for answer in checked if name in answer.held]
        if outcomes:
            counts[name] = (sum(outcomes), len(outcomes))
    return counts


def as_table(found: dict[str, tuple[int, int]]) -> str:
    """Return the counts for people: a row for each check."""
    return "\n".join(f"{CHECKS[name]:<42}{f'{count}/{asked}':>8}" for name, (count, asked) in found.items())


def failed_checks(checked: Sequence[Checked]) -> list[dict[str, Any]]:
    """Return the questions for which something did not hold, or which got no answer."""
    return [
        {
            "question": answer.question.question,
            "failed": [name for name, is_held in answer.held.items() if not is_held],
            "answer": answer.answer,
        }
        for answer in checked
        if not answer.held or not all(answer.held.values())
    ]
