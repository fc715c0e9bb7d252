"""For the person who runs the service, `python -m app.admin`: what readers asked, and the deletion of old conversations."""

import argparse
import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from sqlalchemy import ColumnElement, Label, Row, and_, bindparam, delete, func, inspect, literal_column, or_, select
from sqlalchemy.orm import aliased
from sqlmodel import col

from app.commands import CommandError, CommandSettings, opened_database, run
from app.costs import Cost, costs, notes_on, totals
from app.database import Database
from app.models import TOKEN_COUNTS, ChatSession, Message, TokenUsage, ToolUsage, read_sources, storable, utc_now
from app.pause import READING_SECONDS, begin_pause, end_pause

if TYPE_CHECKING:
    from app.book.gaps import Gap, Reason

BATCH = 500
"""How many rows are read, and how many sessions deleted, in one statement."""

MOST_PROCESSES = 10_000
LONGEST_MESSAGE = 500
"""How long what readers are told of a pause may be."""

COLUMNS = (
    *("time", "session_id", "question", "selected_text", "answer", "sources", "feedback", "comment"),
    *("model", "prompt_tokens", "completion_tokens", "duration_ms", "retrieved", "cited"),
    *("cached_tokens", "reasoning_tokens", "service_tier", "truncated"),
)
"""The columns of the CSV."""

_REASONS: tuple["Reason", ...] = ("nothing_found", "not_cited", "negative")
GAP_COLUMNS = ("group", "asked_in_group", "question", "asked", *_REASONS, "last_asked")


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
    view = report.add_mutually_exclusive_group()
    view.add_argument(
        "--gaps",
        action="store_const",
        dest="command",
        const=_report_gaps,
        help="show what the book could not answer instead, questions that are alike together, the most frequent first",
    )
    view.add_argument(
        "--cost",
        action="store_const",
        dest="command",
        const=_report_costs,
        help="show what the answers of each day cost instead, by model",
    )
    report.set_defaults(command=_report)
    prune = commands.add_parser("prune", help="delete the sessions in which nothing was asked for so many days")
    prune.add_argument("--days", type=_days, required=True, metavar="N")
    prune.add_argument("--dry-run", action="store_true", help="only count them")
    prune.set_defaults(command=_prune)
    pause = commands.add_parser("pause", help="refuse questions from now on, and tell readers why")
    pause.add_argument("--message", type=_message, metavar="TEXT", help="what readers are told")
    pause.set_defaults(command=_pause)
    resume = commands.add_parser("resume", help="answer questions again")
    resume.set_defaults(command=_resume)
    doctor = commands.add_parser("doctor", help="look for what would fail a deployment; status 1 if there is anything")
    doctor.add_argument(
        "--ask", action="store_true", help="also ask the model for a small answer, which costs a few tokens"
    )
    doctor.add_argument("--processes", type=_processes, default=1, metavar="N", help="how many processes there will be")
    doctor.set_defaults(command=_doctor)
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


def _processes(value: str) -> int:
    if not (value.isdecimal() and 0 < int(value) <= MOST_PROCESSES):
        raise argparse.ArgumentTypeError("must be a number of processes")
    return int(value)


def _message(value: str) -> str:
    text = value.strip()
    try:
        storable(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not 0 < len(text) <= LONGEST_MESSAGE:
        raise argparse.ArgumentTypeError(f"must have from 1 to {LONGEST_MESSAGE} characters")
    return text


async def _report(arguments: argparse.Namespace) -> None:
    async with opened_database(CommandSettings.load()) as database:
        turns = asked_turns(database, *_conditions(arguments))
        with suppress(BrokenPipeError):  # Whoever reads has seen enough.
            if arguments.csv:
                with _csv_file(arguments.csv) as file:
                    await _write_csv(file, turns)
            else:
                with _paged() as page:
                    without_book = await _write_table(page, turns)
                    if without_book:
                        print(f"Answered without the book, which could not be searched: {without_book:,}", file=page)
                    if not (arguments.feedback or arguments.unanswered):
                        print(await _tool_calls(database, arguments.since, arguments.until), end="", file=page)


async def _report_gaps(arguments: argparse.Namespace) -> None:
    if find_spec("app.book") is None:  # The folder can be taken away.
        raise CommandError("This service has no book.")
    from app.book.gaps import AskedGaps  # noqa: PLC0415

    settings, asked = CommandSettings.load(), AskedGaps()
    async with opened_database(settings) as database:
        async for turn in asked_turns(database, *_conditions(arguments), _IS_GAP):
            asked.add(turn)
    gaps = await asked.grouped(settings, _note)
    with suppress(BrokenPipeError):
        if arguments.csv:
            with _csv_file(arguments.csv) as file:
                _write_rows(file, GAP_COLUMNS, _gap_rows(gaps))
        else:
            with _paged() as page:
                _write_gaps(page, gaps)


async def _report_costs(arguments: argparse.Namespace) -> None:
    if arguments.feedback or arguments.unanswered:
        raise CommandError("--cost counts every answer: it goes with --since, --until and --csv only.")
    settings = CommandSettings.load()
    async with opened_database(settings) as database:
        rows = await costs(database, settings, since=arguments.since, until=arguments.until)
    with suppress(BrokenPipeError):
        if arguments.csv:
            with _csv_file(arguments.csv) as file:
                _write_rows(file, Cost._fields, rows)
        else:
            with _paged() as page:
                _write_costs(page, rows)


def _note(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201


_TIME, _ID = (inspect(Message).columns[name].type for name in ("created_at", "id"))
_question, _answer = aliased(Message), aliased(Message)


def _of_turn(name: str) -> Label[int]:
    """Return how many tokens a turn took: those of its answer, and those of answers that failed, which its question has."""
    failed, answered = getattr(_question, name), getattr(_answer, name)
    return func.coalesce(failed + answered, failed, answered).label(name)


_IS_WITHOUT_BOOK = and_(col(_answer.cited) == 0, col(_answer.retrieved).is_(None))
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
        _IS_WITHOUT_BOOK.label("is_without_book"),
        *(_of_turn(name) for name in TOKEN_COUNTS),
    )
    .outerjoin(_answer, col(_answer.reply_to) == col(_question.id))
    # The index has the role as a constant, and is not used for a parameter.
    .where(col(_question.role) == literal_column("'user'"))
)
_CITES_NOTHING = and_(col(_question.selected_text).is_(None), col(_answer.cited) == 0)
_UNANSWERED = or_(col(_answer.id).is_(None), _CITES_NOTHING)
_IS_GAP = or_(and_(_CITES_NOTHING, ~_IS_WITHOUT_BOOK), col(_answer.feedback) == "negative")


def _conditions(arguments: argparse.Namespace) -> list[ColumnElement[bool]]:
    return [
        *([col(_question.created_at) >= arguments.since] if arguments.since else []),
        *([col(_question.created_at) < arguments.until] if arguments.until else []),
        *([col(_answer.feedback) == arguments.feedback] if arguments.feedback else []),
        *([_UNANSWERED] if arguments.unanswered else []),
    ]


def asked_turns(db: Database, *conditions: ColumnElement[bool]) -> AsyncIterator[Row[Any]]:
    """Yield the questions with their answers, the newest first, a few hundred rows in memory at a time."""
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


def _write_rows(file: TextIO, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    writer = csv.writer(file)
    writer.writerow(columns)
    writer.writerows([as_cell(value) for value in row] for row in rows)
    file.flush()


def _gap_rows(gaps: Sequence["Gap"]) -> Iterator[Sequence[Any]]:
    for number, gap in enumerate(gaps, 1):
        for question in gap.questions:
            reasons = (question.reasons[reason] for reason in _REASONS)
            last_asked = question.last_asked.isoformat(timespec="seconds")
            yield number, gap.count, question.text, question.count, *reasons, last_asked


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


async def _write_table(page: TextIO, turns: AsyncIterator[Row[Any]]) -> int:
    """Write a line for each turn; returns how many were answered without the book, which could not be searched."""
    without_book = 0
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    print(f"{'TIME (UTC)':16}  {'RATED':8}  {'CITED':>5}  {'TOKENS':>7}  {'SECONDS':>7}  QUESTION → ANSWER", file=page)
    async for turn in turns:
        without_book += bool(turn.is_without_book)
        cited = "lost" if turn.is_without_book else f"{turn.cited}/{turn.retrieved}" if turn.retrieved else ""
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
    return without_book


async def _tool_calls(db: Database, since: datetime | None, until: datetime | None) -> str:
    """Return the line that says how often readers' assistants searched and read, on the days of this time; empty if never."""
    day, calls = col(ToolUsage.day), func.sum(col(ToolUsage.calls)).label("calls")
    conditions = [
        *([day >= since.astimezone(UTC).date()] if since else []),
        *([day <= (until.astimezone(UTC) - timedelta(microseconds=1)).date()] if until else []),
    ]
    statement = select(col(ToolUsage.tool), calls).where(*conditions).group_by(col(ToolUsage.tool))
    counts = {row.tool: row.calls for row in await db.execute((statement, {}))}
    searches, pages = counts.get("search", 0), counts.get("fetch", 0)
    return f"Readers' assistants: searches {searches:,}, pages read {pages:,}\n" if counts else ""


def _write_gaps(page: TextIO, gaps: Sequence["Gap"]) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    print(
        f"{'ASKED':>6}  {'NOTHING FOUND':>13}  {'NOT CITED':>9}  {'RATED DOWN':>10}  {'LAST':10}  QUESTIONS", file=page
    )
    for gap in gaps:
        found, cited, rated = (gap.reasons[reason] or "" for reason in _REASONS)
        figures = f"{gap.count:>6,}  {found:>13}  {cited:>9}  {rated:>10}  {gap.last_asked:%Y-%m-%d}  "
        questions = " / ".join(question.text for question in gap.questions)
        print(figures + _on_one_line(questions, max(20, width - len(figures)) if width else 200), file=page)


def _write_costs(page: TextIO, rows: Sequence[Cost]) -> None:
    print(
        f"{'DAY (UTC)':10}  {'ANSWERS':>8}  {'TOKENS IN':>12}  {'CACHED':>12}  {'TOKENS OUT':>12}  {'COST':>10}  MODEL",
        file=page,
    )
    for row in [*rows, *totals(rows)]:
        day = row.day or "total"
        money = "" if row.cost is None else f"{row.cost:,.4f}"
        tokens = f"{row.prompt_tokens:>12,}  {f'{row.cached_tokens:,}' if row.cached_tokens else '':>12}  {row.completion_tokens:>12,}"
        print(f"{day!s:10}  {row.answers:>8,}  {tokens}  {money:>10}  {_on_one_line(row.model, 60)}", file=page)
    for note in notes_on(rows):
        print(note, file=page)


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
    await db.execute((delete(ToolUsage).where(col(ToolUsage.day) < before.date()), {}))
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


async def _pause(arguments: argparse.Namespace) -> None:
    async with opened_database(CommandSettings.load()) as database:
        await begin_pause(database, arguments.message)
    print(f"Paused: within {READING_SECONDS:.0f} seconds, every process refuses questions. {_RESUME}")  # noqa: T201


_RESUME = "To go on: python -m app.admin resume"


async def _resume(_arguments: argparse.Namespace) -> None:
    async with opened_database(CommandSettings.load()) as database:
        was_paused = await end_pause(database)
    said = f"Questions are answered again within {READING_SECONDS:.0f} seconds." if was_paused else "It was not paused."
    print(said)  # noqa: T201


async def _doctor(arguments: argparse.Namespace) -> None:
    from app.doctor import examine  # noqa: PLC0415  # The model's client takes long to import.

    faults = advice = 0
    async for finding in examine(ask=arguments.ask, processes=arguments.processes):
        print(finding, flush=True)  # noqa: T201
        faults += finding.verdict == "FAULT"
        advice += finding.verdict == "advice"
    counted = f"{faults} fault{'' if faults == 1 else 's'}, {advice} piece{'' if advice == 1 else 's'} of advice."
    if faults:
        raise CommandError(counted)
    print(counted)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
