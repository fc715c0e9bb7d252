"""The book's commands, run with `python -m app.book`."""

import argparse
import re
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import Row

from app.book import answers, evaluation, reading
from app.book.embeddings import Embedder, EmbeddingError
from app.book.links import printable
from app.book.search import PASSAGES, BookSearch, Hit
from app.book.shelf import comparable, known_books
from app.commands import CommandError, CommandSettings, opened_database, run
from app.retrieval import Query

_PATIENCE = {"openai_max_retries": 6, "openai_timeout_seconds": 120.0}
"""Reading in a book is in no hurry, and may be told to wait by a provider that limits tokens per minute."""

_LONGEST_TITLE = 200

_EMBEDDING_SECONDS = 30.0
"""How long a person at a terminal waits for an embedding before words alone decide."""


_NO_BOOK = "There is no book in the database. Please run: uv run python -m app.book ingest --help"


def main() -> int:
    """Run the command that the arguments name; returns its exit status."""
    return run(
        _parser(),
        when_stopped="Stopped. Unless its numbers are above, the book is as it was. Embeddings that are paid for are kept: the same command goes on from there.",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m app.book", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ingest = commands.add_parser("ingest", help="read in a book, or what has changed in it")
    ingest.add_argument(
        "source",
        type=_source,
        metavar="SOURCE",
        help="the folder of its Markdown, the folder of its built site, or the address of its running site",
    )
    ingest.add_argument("--url", help="the address of that folder's root on the site; of a running site, its own")
    ingest.add_argument(
        "--kind",
        choices=["site", "source"],
        help="whether the folder is a built site or its source, if it could be both",
    )
    ingest.add_argument("--locale", help="the language of the pages, such as ur (default: what they say, or en)")
    ingest.add_argument(
        "--check",
        action="store_true",
        help="ask the running site for a sample of the addresses, and list the dead ones",
    )
    ingest.add_argument("--title", type=_title, help="what the book is called (default: as its site, or BOOK_TITLE)")
    ingest.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="GLOB",
        help="leave these files out; can be given several times",
    )
    ingest.add_argument(
        "--keep-number-prefixes",
        action="store_true",
        help="for sites that set numberPrefixParser to false: 01-intro.md is at 01-intro",
    )
    ingest.set_defaults(command=_ingest)
    list_books = commands.add_parser("list", help="show which books are in the database")
    list_books.set_defaults(command=_list)
    remove = commands.add_parser("remove", help="delete a book that was read in")
    remove.add_argument("--url", required=True, help="the address under which it was read in")
    remove.set_defaults(command=_remove)
    search = commands.add_parser("search", help="show what is found for a question, and why")
    search.add_argument("question")
    search.add_argument("--previous", metavar="QUESTION", help="the question before it, for a follow-up")
    search.add_argument("--page", metavar="URL", help="the page that the reader is on")
    search.add_argument("--limit", type=_positive, default=PASSAGES, metavar="N", help="how many chunks to show")
    search.add_argument("--words", action="store_true", help="search by words alone")
    search.set_defaults(command=_search)
    llms_txt = commands.add_parser("llms-txt", help="print a book's llms.txt, for the root of its site")
    llms_txt.add_argument("--book", metavar="URL", help="the address of the book, if there are several")
    llms_txt.add_argument(
        "--full", action="store_true", help="print the text of all pages too, as llms-full.txt has it"
    )
    llms_txt.set_defaults(command=_llms_txt)
    evaluate = commands.add_parser("evaluate", help="measure how often the right page is found for a file of questions")
    evaluate.add_argument("file", type=Path, metavar="FILE", help="a JSON object on each line, with question and pages")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.add_argument("-v", "--verbose", action="store_true", help="name the questions whose page is not found")
    evaluate.set_defaults(command=_evaluate)
    return parser


def _source(text: str) -> Path | str:
    return text if re.match("https?://", text, re.IGNORECASE) else Path(text)


def _title(text: str) -> str:
    title = " ".join(text.split())
    if not title or len(title) > _LONGEST_TITLE:
        raise argparse.ArgumentTypeError(f"must have between 1 and {_LONGEST_TITLE} characters")
    return title


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError("must be a number above 0")
    return int(text)


async def _ingest(arguments: argparse.Namespace) -> None:
    settings = CommandSettings.load()
    patience = {name: value for name, value in _PATIENCE.items() if name not in settings.model_fields_set}
    with _changes() as changes:
        source = changes.Source(
            place=arguments.source,
            url=arguments.url,
            kind=arguments.kind,
            locale=arguments.locale,
            title=arguments.title,
            exclude=arguments.exclude,
            keep_numbers=arguments.keep_number_prefixes,
            check=arguments.check,
        )
        is_right = await changes.read_in(source, settings, Embedder(settings.model_copy(update=patience)))
    if not is_right:
        raise CommandError(
            "Addresses of the book are dead. Please compare --url with the address of a page of the site."
        )


async def _list(_arguments: argparse.Namespace) -> None:
    settings = CommandSettings.load()
    async with opened_database(settings) as database:
        books = await database.execute((known_books(is_sqlite=database.dsn.sqlite), {}))
    for book in books:
        print("\n".join(map(printable, _as_entry(book, settings.book_title))))  # noqa: T201
    if not books:
        print(_NO_BOOK)  # noqa: T201


def _as_entry(book: Row[Any], default_title: str) -> list[str]:
    """Return the lines that tell of a book."""
    models = {found["model"]: found["chunks"] for found in book.embeddings}
    embedded = ", ".join(f"{count:,} embedded with {model}" for model, count in models.items())
    return [
        book.address,
        f"  {book.title or f'{default_title} (BOOK_TITLE)'}",
        f"  {book.locale or 'no language'}, {book.pages:,} pages, {book.chunks:,} chunks, {embedded or 'none embedded'}",
        f"  read in on {book.read_at:%Y-%m-%d %H:%M} UTC",
    ]


async def _remove(arguments: argparse.Namespace) -> None:
    settings = CommandSettings.load()
    with _changes() as changes:
        await changes.take_out(arguments.url, settings)


@contextmanager
def _changes() -> Iterator[ModuleType]:
    """Give the module that changes the book; raises CommandError for what goes wrong in it."""
    try:
        from app.book import changes  # noqa: PLC0415  # Only this needs the extra.
    except ModuleNotFoundError as error:
        raise CommandError(f"Reading in a book needs the book extra ({error}): uv sync --extra book") from None
    try:
        yield changes
    except (changes.TreeError, changes.IngestError) as error:
        raise CommandError(str(error)) from error


@asynccontextmanager
async def _opened(settings: CommandSettings) -> AsyncIterator[BookSearch]:
    """Open the book in the database of the settings; raises CommandError if there is none."""
    async with (
        opened_database(settings) as database,
        BookSearch(settings, database, embedding_seconds=_EMBEDDING_SECONDS) as search,
    ):
        if not await search.pages():
            raise CommandError(_NO_BOOK)
        yield search


async def _search(arguments: argparse.Namespace) -> None:
    async with _opened(CommandSettings.load()) as search:
        query = Query(arguments.question, evaluation.known(arguments.previous), arguments.page)
        hits = await search.search(query, limit=arguments.limit, by_meaning=not arguments.words)
    for number, hit in enumerate(hits, 1):
        print(_as_lines(number, hit))  # noqa: T201
    if not hits:
        print("Nothing was found.")  # noqa: T201


def _as_lines(number: int, hit: Hit) -> str:
    ranks = (("words", hit.words_rank), ("meaning", hit.meaning_rank))
    found_by = ", ".join(f"{name} {rank}" for name, rank in ranks if rank is not None)
    first_line = next(iter(hit.text.strip().splitlines()), "")
    title, source, text = map(printable, (hit.title, hit.source, first_line[:100]))
    return f"{number:2}. {title}\n    {source}\n    score {hit.score:.4f} ({found_by})\n    {text}\n"


async def _llms_txt(arguments: argparse.Namespace) -> None:
    settings = CommandSettings.load()
    async with opened_database(settings) as database:
        books = await database.execute((known_books(is_sqlite=database.dsn.sqlite), {}))
        book = _chosen(books, arguments.book)
        print(await reading.llms_txt(database, book, title=book.title or settings.book_title), end="")  # noqa: T201
        if arguments.full:
            async for text in reading.page_texts(database, book):
                print(f"\n{text}", end="")  # noqa: T201


def _chosen(books: Sequence[Row[Any]], address: str | None) -> Row[Any]:
    """Return the book with the address, or the only one; raises CommandError if there is none."""
    if not books:
        raise CommandError(_NO_BOOK)
    chosen = [book for book in books if address is None or comparable(book.address) == comparable(address)]
    if len(chosen) != 1:
        known = "\n".join(f"  {book.address}" for book in books)
        reason = (
            "There is no book at this address" if address else "There are several books; please name one with --book"
        )
        raise CommandError(f"{reason}:\n{known}")
    return chosen[0]


async def _evaluate(arguments: argparse.Namespace) -> None:
    questions, for_model = evaluation.read_questions(arguments.file)
    settings = CommandSettings.load()
    async with _opened(settings) as search:
        missing = evaluation.unknown_pages([*questions, *for_model], await search.pages())
        ordinary = [question for question in questions if not question.has_place]
        places = [question for question in questions if question.has_place]
        outcomes = await _searched(search, ordinary, places) if questions else {}
    checked = await _answered(settings, for_model) if for_model else []
    columns = {
        name: (evaluation.figures(found) if found else {}) | evaluation.place_figures(placed)
        for name, (found, placed) in outcomes.items()
    }
    failed = []
    if outcomes:
        found, placed = list(outcomes.values())[-1]
        failed = evaluation.failures(found) + evaluation.place_failures(placed)
    failed_checks, held = answers.failed_checks(checked), answers.held(checked)
    lines: list[str] = []
    if arguments.json:
        lines.append(evaluation.dumped(len(questions), columns, failed, held, failed_checks))
    else:
        if questions:
            lines += [f"{len(questions)} questions", evaluation.as_table(columns)]
            lines += map(_as_failure, failed if arguments.verbose else ())
        if checked:
            model = settings.openai_model if settings.openai_api_key else "the offline stand-in"
            lines += [f"{len(checked)} answers of {model}", answers.as_table(held)]
            lines += map(_as_failed_check, failed_checks if arguments.verbose else ())
    print("\n".join(lines))  # noqa: T201
    if missing:
        print(f"The book does not have these pages: {', '.join(missing)}", file=sys.stderr)  # noqa: T201


def _as_failure(failure: dict[str, Any]) -> str:
    found = ", ".join(failure["found"]) or "nothing"
    return f"\n{failure['question']}\n  right: {', '.join(failure['pages'])}\n  found: {found}"


def _as_failed_check(failure: dict[str, Any]) -> str:
    what = ", ".join(f"not: {answers.CHECKS[name]}" for name in failure["failed"]) or "no answer"
    return f"\n{failure['question']}\n  {what}\n  answer: {' '.join(failure['answer'].split())}"


type _Outcomes = tuple[list[evaluation.Outcome], list[evaluation.PlaceOutcome]]


async def _searched(
    search: BookSearch, questions: Sequence[evaluation.Question], places: Sequence[evaluation.Question]
) -> dict[str, _Outcomes]:
    async def evaluate(*, by_meaning: bool) -> _Outcomes:
        return (
            await evaluation.evaluate(search, questions, by_meaning=by_meaning),
            await evaluation.evaluate_places(search, places, by_meaning=by_meaning),
        )

    outcomes = {"words": await evaluate(by_meaning=False)}
    if await search.has_meaning():
        try:
            outcomes["words and meaning"] = await evaluate(by_meaning=True)
        except EmbeddingError as error:
            raise CommandError(f"The questions cannot be embedded: {error}") from error
    return outcomes


async def _answered(settings: CommandSettings, questions: Sequence[evaluation.AnswerQuestion]) -> list[answers.Checked]:
    from app.main import open_retriever  # noqa: PLC0415  # The other commands need no service, and start faster.

    async with opened_database(settings) as database, open_retriever(settings, database) as retriever:
        return await answers.check_answers(retriever, settings, questions)


if __name__ == "__main__":
    sys.exit(main())
