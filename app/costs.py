"""What the answers cost: tokens by day and model, and money where the prices are known."""

import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

from sqlalchemy import Date, Row, and_, case, cast, func, or_, select, type_coerce
from sqlmodel import col

from app.config import Price, Settings
from app.database import Database
from app.models import Message, MessageRole

KNOWN_PRICES = {
    "gpt-5.4-mini": Price(input=0.75, cached_input=0.075, output=4.50),
    "gpt-6-luna": Price(input=0.10, cached_input=0.01, output=0.50),
}
"""OpenAI's, in US dollars, in November 2026."""

_MILLION = 1_000_000
_DATED = re.compile(r"-\d{4}-?\d\d-?\d\d$")


class Cost(NamedTuple):
    """What the answers of one model cost on one day, in UTC; those that failed are counted too."""

    day: date | None
    """None in a sum of all days."""
    model: str
    answers: int
    """How many there are, without those that failed."""
    uncounted: int
    """How many of the answers have no number of tokens, since the model's server does not count."""
    prompt_tokens: int
    cached_tokens: int
    """How many of the tokens of the prompts the provider had cached."""
    completion_tokens: int
    cost: float | None
    """In the currency of the prices; None if the model's are not known."""


async def costs(
    db: Database, settings: Settings, *, since: datetime | None = None, until: datetime | None = None
) -> list[Cost]:
    """Return what the answers of each day cost, the latest day first; what was deleted is not among them."""
    statement = _by_day(since, until, default_model=settings.openai_model, is_sqlite=db.dsn.sqlite)
    rows = await db.execute((statement, {}))
    return [
        Cost(
            row.day,
            row.name,
            row.answers,
            row.uncounted,
            row.prompt_tokens,
            row.cached_tokens,
            row.completion_tokens,
            _money(row, settings.openai_prices),
        )
        for row in rows
    ]


def _by_day(since: datetime | None, until: datetime | None, *, default_model: str, is_sqlite: bool) -> Any:
    # SQLite keeps times as text, in UTC.
    day: Any = (
        type_coerce(func.date(col(Message.created_at)), Date)
        if is_sqlite
        else cast(func.timezone("UTC", col(Message.created_at)), Date)
    )
    is_answer = col(Message.role) == MessageRole.assistant
    # A question has what its failed answers cost, and not of which model.
    name = case((is_answer, func.coalesce(col(Message.model), "")), else_=default_model)
    counted = col(Message.prompt_tokens) + col(Message.completion_tokens)
    conditions = [
        *([col(Message.created_at) >= since] if since else []),
        *([col(Message.created_at) < until] if until else []),
    ]
    return (
        select(
            day.label("day"),
            name.label("name"),
            func.sum(case((is_answer, 1), else_=0)).label("answers"),
            func.sum(case((and_(is_answer, counted.is_(None)), 1), else_=0)).label("uncounted"),
            func.coalesce(func.sum(col(Message.prompt_tokens)), 0).label("prompt_tokens"),
            func.coalesce(func.sum(col(Message.cached_tokens)), 0).label("cached_tokens"),
            func.coalesce(func.sum(col(Message.completion_tokens)), 0).label("completion_tokens"),
        )
        .where(or_(is_answer, counted.is_not(None)), *conditions)
        .group_by("day", "name")
        .order_by(day.desc(), "name")
    )


def _money(row: Row[Any], prices: dict[str, Price]) -> float | None:
    known = {**KNOWN_PRICES, **prices}
    price = known.get(row.name) or known.get(_DATED.sub("", row.name))
    if price is None:
        return None
    cached_price = price.input if price.cached_input is None else price.cached_input
    money: float = (row.prompt_tokens - row.cached_tokens) * price.input + row.cached_tokens * cached_price
    money += row.completion_tokens * price.output
    return money / _MILLION


def totals(rows: Sequence[Cost]) -> list[Cost]:
    """Return the sums of each model, the most expensive first."""
    sums: dict[str, Cost] = {}
    for row in rows:
        total = sums.get(row.model, Cost(None, row.model, 0, 0, 0, 0, 0, None))
        sums[row.model] = Cost(
            None,
            row.model,
            total.answers + row.answers,
            total.uncounted + row.uncounted,
            total.prompt_tokens + row.prompt_tokens,
            total.cached_tokens + row.cached_tokens,
            total.completion_tokens + row.completion_tokens,
            None if row.cost is None else row.cost + (total.cost or 0),
        )
    return sorted(sums.values(), key=lambda total: (-(total.cost or 0), total.model))


def notes_on(rows: Sequence[Cost]) -> Iterator[str]:
    """Yield in words what the figures do not say."""
    unknown = sorted({row.model for row in rows if row.cost is None})
    if unknown:
        yield f"No price is known of {', '.join(name or 'an unnamed model' for name in unknown)}: see OPENAI_PRICES."
    if uncounted := sum(row.uncounted for row in rows):
        yield f"The model's server did not count the tokens of {uncounted:,} of the answers."
