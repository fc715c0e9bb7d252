"""For the person who runs the service: what readers asked, and what is no longer kept. Run with `python -m app.admin`."""

import argparse
import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO, cast

from sqlalchemy import Label, Row, and_, bindparam, delete, func, inspect, literal_column, or_, select
from sqlalchemy.orm import aliased
from sqlmodel import col

from app.commands import CommandError, CommandSettings, opened_database, run
from app.database import Database
from app.models import TOKEN_COUNTS, ChatSession, Message, TokenUsage, read_sources, utc_now

BATCH = 500
"""How many rows are read, and how many sessions deleted, in one statement."""

COLUMNS = (
    *("time", "session_id", "question", "selected_text", "answer", "sources", "feedback", "comment"),
    *("model", "prompt_tokens", "completion_tokens", "duration_ms", "retrieved", "cited"),
    *("cached_tokens", "reasoning_tokens", "service_tier", "truncated"),
)
"""The columns of the CSV."""


def main() -> int:
    """Run the command that the arguments name; returns its exit status."""
    return run(_parser())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.admin", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    report = commands.add_parser("report", help="show what readers asked and were answered, the newest first")
    report.add_argument("--since", type=_moment, metavar="DATE", help="asked then or later, such as 2026-11-01")
    report.add_argument("--until", type=_moment, metavar="DATE", help="asked before")
    report.add_argument("--feedback", choices=("positive", "negative"), help="rated so by their readers")
    report.add_argument(
        "--unanswered",
        action="store_true",
        help="not answered from the book: without an answer, or with one that cites nothing",
    )
    report.add_argument("--csv", metavar="FILE", help="write a CSV file with all of it; - is the standard output")
    report.set_defaults(command=_report)
    prune = commands.add_parser("prune", help="delete the sessions in which nothing was asked for so many days")
    prune.add_argument("--days", type=_days, required=True, metavar="N")
    prune.add_argument("--dry-run", action="store_true", help="only count them")
    prune.set_defaults(command=_prune)
    return parser


def _moment(value: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise argparse.ArgumentTypeError(
            "must be a date such as 2026-11-01, or a time such as 2026-11-01T18:30"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _days(value: str) -> int:
    if not (value.isdecimal() and 0 < int(value) < (utc_now().date() - date.min).days):
        raise argparse.ArgumentTypeError("must be a number of days")
    return int(value)


async def _report(arguments: argparse.Namespace) -> None:
    settings = CommandSettings.load()
    async with opened_database(settings) as database:
        turns = asked_turns(
            database,
            since=arguments.since,
            until=arguments.until,
            feedback=arguments.feedback,
            unanswered=arguments.unanswered,
        )
        with suppress(BrokenPipeError):  # Whoever reads has seen enough.
            if arguments.csv:
                with _csv_file(arguments.csv) as file:
                    await _write_csv(file, turns)
            else:
                with _paged() as page:
                    await _write_table(page, turns)


_TIME, _ID = (inspect(Message).columns[name].type for name in ("created_at", "id"))
_question, _answer = aliased(Message), aliased(Message)


def _of_turn(name: str) -> Label[int]:
    """Return how many tokens a turn took: those of its answer, and those of answers that failed, which its question has."""
    failed, answered = getattr(_question, name), getattr(_answer, name)
    return func.coalesce(failed + answered, failed, answered).label(name)


_TURNS = (
    select(
        col(_question.created_at),
        col(_question.session_id),
        col(_question.content).label("question"),
        col(_question.selected_text),
        col(_answer.content).label("answer"),
        col(_answer.sources),
        col(_answer.feedback),
        col(_answer.feedback_comment),
        *(
            getattr(_answer, name)
            for name in ("model", "duration_ms", "retrieved", "cited", "service_tier", "truncated")
        ),
        *(_of_turn(name) for name in TOKEN_COUNTS),
    )
    .outerjoin(_answer, col(_answer.reply_to) == col(_question.id))
    .where(col(_question.role) == literal_column("'user'"))  # As a parameter, it would not be that of the index.
)
_UNANSWERED = or_(col(_answer.id).is_(None), and_(col(_question.selected_text).is_(None), col(_answer.cited) == 0))


def asked_turns(
    db: Database,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    feedback: str | None = None,
    unanswered: bool = False,
) -> AsyncIterator[Row[Any]]:
    """Yield the questions with their answers, the newest first, a few hundred rows in memory at a time."""
    conditions = [
        *([col(_question.created_at) >= since] if since else []),
        *([col(_question.created_at) < until] if until else []),
        *([col(_answer.feedback) == feedback] if feedback else []),
        *([_UNANSWERED] if unanswered else []),
    ]
    place = (col(_question.created_at), col(_question.id))
    return db.walk(_TURNS.where(*conditions), *place, batch=BATCH, descending=True)


@contextmanager
def _csv_file(name: str) -> Iterator[TextIO]:
    try:
        if name == "-":
            yield sys.stdout
        else:
            with Path(name).open("w", newline="", encoding="utf-8") as file:
                yield file
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommandError(f"{name} cannot be written: {error.strerror}") from error


async def _write_csv(file: TextIO, turns: AsyncIterator[Row[Any]]) -> None:
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    async for turn in turns:
        writer.writerow(map(as_cell, _values(turn)))
    file.flush()


def _values(turn: Row[Any]) -> Sequence[Any]:
    sources = "\n".join(f"[{s['number']}] {s['title']} {s['url']}" for s in read_sources(turn.sources))
    return (
        turn.created_at.isoformat(timespec="seconds"),
        *(turn.session_id, turn.question, turn.selected_text, turn.answer, sources),
        *(turn.feedback, turn.feedback_comment, turn.model),
        *(turn.prompt_tokens, turn.completion_tokens, turn.duration_ms, turn.retrieved, turn.cited),
        *(turn.cached_tokens, turn.reasoning_tokens, turn.service_tier, "true" if turn.truncated else None),
    )


_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
"""What a terminal would obey."""


def as_cell(value: Any) -> str:
    """Return what stands in a spreadsheet's cell: never a formula, which some programs also see after blanks."""
    text = "" if value is None else _CONTROL.sub("", str(value))
    return f"'{text}" if re.match(r"\s*[=+\-@＝＋－＠]|[\t\r\n]", text) else text  # noqa: RUF001  # Wide ones count too.


@contextmanager
def _paged() -> Iterator[TextIO]:
    """Give the standard output, on a terminal through a pager."""
    try:
        pager = shlex.split(os.environ.get("PAGER", "")) or ["less"]
    except ValueError:
        pager = ["less"]
    if not sys.stdout.isatty() or shutil.which(pager[0]) is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    environment = {"LESS": "FRSX", **os.environ}
    with subprocess.Popen(pager, stdin=subprocess.PIPE, text=True, encoding="utf-8", env=environment) as process:  # noqa: S603  # The operator's own.
        yield cast("TextIO", process.stdin)


async def _write_table(page: TextIO, turns: AsyncIterator[Row[Any]]) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    print(f"{'TIME (UTC)':16}  {'RATED':8}  {'CITED':>5}  {'TOKENS':>7}  {'SECONDS':>7}  QUESTION → ANSWER", file=page)
    async for turn in turns:
        cited = f"{turn.cited}/{turn.retrieved}" if turn.retrieved else ""
        tokens = (turn.prompt_tokens or 0) + (turn.completion_tokens or 0)
        seconds = f"{turn.duration_ms / 1000:.1f}" if turn.duration_ms is not None else ""
        excerpt = f"“{_on_one_line(turn.selected_text, 40)}” " if turn.selected_text else ""
        comment = f" ({_on_one_line(turn.feedback_comment, 80)})" if turn.feedback_comment else ""
        end = " (cut off)" if turn.truncated else ""
        said = f"{excerpt}{turn.question} → {turn.answer or 'no answer'}{end}{comment}"
        figures = (
            f"{turn.created_at:%Y-%m-%d %H:%M}  {turn.feedback or '':8}  {cited:>5}  {tokens or '':>7}  {seconds:>7}  "
        )
        print(figures + _on_one_line(said, max(20, width - len(figures)) if width else 200), file=page)


def _on_one_line(text: str, length: int) -> str:
    """Return the beginning of a text without what a terminal would obey."""
    line = "".join(c if c.isprintable() else " " for c in text[: 4 * length])
    line = " ".join(line.split())
    return line if len(line) <= length and len(text) <= 4 * length else f"{line[: length - 1]}…"


_STALE = col(ChatSession.updated_at) < bindparam("before", type_=_TIME)
_NEXT_STALE = (
    select(col(ChatSession.id))
    .where(_STALE, col(ChatSession.id) > bindparam("after", type_=_ID))
    .order_by(col(ChatSession.id))
    .limit(BATCH)
)
# A session that moves on while its batch is being deleted stays.
_DELETE_STALE = delete(ChatSession).where(col(ChatSession.id).in_(_NEXT_STALE), _STALE).returning(col(ChatSession.id))


async def prune(db: Database, *, before: datetime) -> int:
    """Delete the sessions that have not moved on since, in batches between which readers' turns go on; returns how many."""
    deleted, after = 0, uuid.UUID(int=0)
    while rows := await db.execute((_DELETE_STALE, {"before": before, "after": after})):
        deleted += len(rows)
        after = max(row.id for row in rows)
    await db.execute((delete(TokenUsage).where(col(TokenUsage.day) < utc_now().date() - timedelta(days=1)), {}))
    return deleted


async def _prune(arguments: argparse.Namespace) -> None:
    before = utc_now() - timedelta(days=arguments.days)
    async with opened_database(CommandSettings.load()) as database:
        if arguments.dry_run:
            [(count,)] = await database.execute((select(func.count()).where(_STALE), {"before": before}))
            done = "would be deleted"
        else:
            count, done = await prune(database, before=before), "deleted"
    since = f"in which nothing was asked since {before:%Y-%m-%d %H:%M} UTC"
    print(f"{count:,} session{'' if count == 1 else 's'} {done}, {since}.")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
