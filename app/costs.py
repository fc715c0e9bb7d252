"""What the answers cost: tokens by day and model, and money where the prices are known."""

import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

from sqlalchemy import Date, Row, cast, func, select, type_coerce
from sqlmodel import col

from app.config import Price
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
    """What the answers of one model cost on one day, in UTC."""

    day: date | None
    """None in a sum of all days."""
    model: str
    answers: int
    uncounted: int
    """How many of the answers have no number of tokens, since the model's server does not count."""
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    """In the currency of the prices; None if the model's are not known."""


async def costs(
    db: Database, prices: dict[str, Price], *, since: datetime | None = None, until: datetime | None = None
) -> list[Cost]:
    """Return what the answers of each day cost, the latest day first; answers that were deleted are not among them."""
    rows = await db.execute((_by_day(since, until, is_sqlite=db.dsn.sqlite), {}))
    return [
        Cost(
            row.day,
            row.model,
            row.answers,
            row.uncounted,
            row.prompt_tokens,
            row.completion_tokens,
            _money(row, prices),
        )
        for row in rows
    ]


def _by_day(since: datetime | None, until: datetime | None, *, is_sqlite: bool) -> Any:
    # SQLite keeps times as text, in UTC.
    day: Any = (
        type_coerce(func.date(col(Message.created_at)), Date)
        if is_sqlite
        else cast(func.timezone("UTC", col(Message.created_at)), Date)
    )
    conditions = [
        *([col(Message.created_at) >= since] if since else []),
        *([col(Message.created_at) < until] if until else []),
    ]
    return (
        select(
            day.label("day"),
            func.coalesce(col(Message.model), "").label("model"),
            func.count().label("answers"),
            (func.count() - func.count(col(Message.prompt_tokens) + col(Message.completion_tokens))).label("uncounted"),
            func.coalesce(func.sum(col(Message.prompt_tokens)), 0).label("prompt_tokens"),
            func.coalesce(func.sum(col(Message.completion_tokens)), 0).label("completion_tokens"),
        )
        .where(col(Message.role) == MessageRole.assistant, *conditions)
        .group_by("day", "model")
        .order_by(day.desc(), "model")
    )


def _money(row: Row[Any], prices: dict[str, Price]) -> float | None:
    known = {**KNOWN_PRICES, **prices}
    price = known.get(row.model) or known.get(_DATED.sub("", row.model))
    if price is None:
        return None
    money: float = row.prompt_tokens * price.input + row.completion_tokens * price.output
    return money / _MILLION


def totals(rows: Sequence[Cost]) -> list[Cost]:
    """Return the sums of each model, the most expensive first."""
    sums: dict[str, Cost] = {}
    for row in rows:
        total = sums.get(row.model, Cost(None, row.model, 0, 0, 0, 0, None))
        sums[row.model] = Cost(
            None,
            row.model,
            total.answers + row.answers,
            total.uncounted + row.uncounted,
            total.prompt_tokens + row.prompt_tokens,
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
