"""The commands that change the book: their progress, and their account of what they did."""

import asyncio
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.book.apart import Apart
from app.book.crawl import Check, Crawler, check
from app.book.embeddings import PRICES, Embedder
from app.book.ingest import IngestError, Report, ingest, known_pages, remove
from app.book.links import printable
from app.book.site import SUFFIXES as HTML
from app.book.site import is_site, read_site
from app.book.tree import SUFFIXES, Book, TreeError, book_url, counted, files_in, generator_of, locale_of, read_book
from app.config import Settings

_FAULTS = 10
"""How many of the book's faults are listed."""

__all__ = ["IngestError", "Source", "TreeError", "read_in", "take_out"]


class _Show(Protocol):
    """Is told how many of how many things are done, and what they cost."""

    def __call__(self, done: int, total: int, cost: str = "") -> None: ...  # As the class says.


@dataclass(frozen=True)
class Source:
    """What is to be read in."""

    place: Path | str
    """A folder, or the address of a running site."""
    url: str | None
    """The address of the book; None if it is that of the running site."""
    kind: str | None
    """`site` if the folder is a built site, `source` if it is its Markdown; None if the folder shows it."""
    locale: str | None
    """The language of the pages; None if they or the path say it."""
    title: str | None
    """What the book is called; None if its site says it."""
    exclude: Sequence[str]
    keep_numbers: bool
    check: bool
    """Whether a sample of the addresses is asked for."""


async def read_in(source: Source, settings: Settings, embedder: Embedder) -> bool:
    """Read in the book and print what became of it; returns whether its addresses are right, as far as they were checked.

    Raises TreeError and IngestError.
    """
    console = Console(highlight=False, markup=False, soft_wrap=True)
    book = await _book(source, settings, console)
    locale = source.locale or book.locale or (locale_of(source.place) if isinstance(source.place, Path) else "en")
    try:
        with _progress(console, "Embedding") as show:
            report = await ingest(
                book,
                settings.database,
                embedder if embedder.is_available else None,
                locale=locale,
                title=source.title,
                on_progress=lambda done, total, tokens: show(done, total, _cost(embedder.model, tokens)),
                on_stored=lambda report: _tell(console, _account(book, report, locale, settings, embedder)),
            )
    finally:
        await embedder.close()
    _tell(console, _of_index(report))
    if not source.check:
        return True
    checked = await check(book)
    _tell(console, _as_lines(checked))
    return not checked.dead


def _tell(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(printable(line))


def _of_index(report: Report) -> Iterator[str]:
    if report.indexing.made:
        yield f"  {counted(report.indexing.made, 'embedding')} of all books indexed"
    if report.indexing.failure:
        yield "  The embeddings could not be indexed, so a question is compared with all of them:"
        yield from (f"    {line}" for line in report.indexing.failure.splitlines())


def _as_lines(checked: Check) -> list[str]:
    asked = f"{checked.asked} of its addresses"
    if not checked.dead:
        return [f"  The running site has all of {asked} that it was asked for."]
    dead = [f"    {dead.file} {dead.reason}" for dead in checked.dead]
    return [f"  The running site was asked for {asked}, and these are dead:", *dead]


@contextmanager
def _progress(console: Console, name: str) -> Iterator[_Show]:
    """Show on a terminal how far something is; gives what is to be told so."""
    columns = (
        TextColumn(name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=None, visible=False)

        def show(done: int, total: int, cost: str = "") -> None:
            left = ", ".join(filter(None, (f"{total - done:,} left", cost)))
            progress.update(bar, completed=done, total=total, description=left, visible=True)

        yield show


def _cost(model: str, tokens: int) -> str:
    """Return about what the tokens cost, if the price is known."""
    price = PRICES.get(model)
    return "" if price is None else f"about ${tokens * price / 1_000_000:,.4f}"


async def _book(source: Source, settings: Settings, console: Console) -> Book:
    with Apart() as call:
        if isinstance(source.place, str):
            url = book_url(source.url or source.place)
            known = await known_pages(url, settings.database)
            with _progress(console, "Pages") as show:
                crawler = Crawler(source.place, url, known=known, exclude=source.exclude, call=call, on_fetched=show)
                async with crawler:
                    return await crawler.read()
        if source.url is None:
            raise TreeError("Please give --url, the address of that folder's root on the site.")
        if (source.kind or _kind(source.place, source.exclude)) == "site":
            return await asyncio.to_thread(read_site, source.place, source.url, exclude=source.exclude, call=call)
        return await asyncio.to_thread(
            read_book, source.place, source.url, exclude=source.exclude, keep_numbers=source.keep_numbers, call=call
        )


def _kind(folder: Path, exclude: Sequence[str]) -> str:
    """Return whether the folder is a built site or its source; raises TreeError if that cannot be told."""
    has_markdown = next(files_in(folder, exclude, SUFFIXES, []), None) is not None
    if is_site(folder) and has_markdown:
        raise TreeError(
            f"{folder} has an index.html and Markdown too. Please say what to read: "
            "--kind site for its HTML, or --kind source for its Markdown."
        )
    if not is_site(folder) and not has_markdown and generator_of(folder) is None:
        html = list(files_in(folder, exclude, HTML, []))
        if html:
            raise TreeError(
                f"{folder} has {counted(len(html), 'HTML file')}, but no index.html and no Markdown. {_advice(folder, html)}"
            )
    return "site" if is_site(folder) else "source"


def _advice(folder: Path, html: Sequence[str]) -> str:
    """Return what to do with a folder of HTML that has no page for its root."""
    below = {posixpath.dirname(file) for file in html if file.rpartition("/")[2].partition(".")[0] == "index"}
    if len({name.partition("/")[0] for name in below}) == 1:  # Otherwise these are the folders of pages.
        nearest = min(below, key=lambda name: (name.count("/"), name))
        return (
            f"If the built site is in {folder / nearest}, name that folder. If it is all of this one, add --kind site."
        )
    return "If it is a built site, add --kind site."


async def take_out(url: str, settings: Settings) -> None:
    """Delete the book of this address and say so; raises TreeError and IngestError."""
    root = book_url(url)
    print(f"{root}: {counted(await remove(root, settings.database), 'chunk')} deleted")  # noqa: T201


def _spent(report: Report, embedder: Embedder) -> str:
    cost = _cost(embedder.model, report.tokens)
    return f": {report.tokens:,} tokens, {cost}" if report.tokens and cost else ""


def _faults(count: int) -> str:
    return "1 anchor or link leads nowhere" if count == 1 else f"{count:,} anchors or links lead nowhere"


def _account(book: Book, report: Report, locale: str, settings: Settings, embedder: Embedder) -> list[str]:
    url = settings.database.url
    unset = "" if settings.database_url else ", since DATABASE_URL is not set"
    changes = f"{report.new:,} new, {report.unchanged:,} unchanged, {report.deleted:,} deleted"
    lines = [
        f"{book.url} ({locale}), in the database {url.database}{f' on {url.host}' if url.host else ''}{unset}:",
        f"  {counted(book.pages, 'page')}, {counted(len(book.chunks), 'chunk')}: {changes}",
        f"  {counted(report.embedded, 'chunk')} embedded with {embedder.model}{_spent(report, embedder)}"
        if embedder.is_available
        else "",
    ]
    for (model, dimensions), count in report.replaced.items():
        lines.append(f"  {counted(count, 'embedding')} of {model} with {dimensions} dimensions replaced")
    if report.without_embedding:
        why = "OPENAI_API_KEY is not set" if report.has_pgvector else "the database has no pgvector"
        lines.append(
            f"  {counted(report.without_embedding, 'chunk')} without an embedding, found by words alone, since {why}. "
            "The same command adds them later."
        )
    for other, other_model, count in report.others:
        if other_model != embedder.model and embedder.is_available:
            lines.append(
                f"  {other} has {counted(count, 'embedding')} of {other_model}. Until it is read in again too, "
                "questions find every book of this database by words alone."
            )
    if book.faults:
        lines.append(f"  {_faults(len(book.faults))}:")
        lines += [f"    {fault}" for fault in book.faults[:_FAULTS]]
        if len(book.faults) > _FAULTS:
            lines.append(f"    and {len(book.faults) - _FAULTS:,} more")
    if book.skipped:
        lines.append(f"  {counted(len(book.skipped), 'file')} skipped:")
        lines += [f"    {skipped.file} {skipped.reason}" for skipped in book.skipped]
    lines += [f"  {note}" for note in book.notes]
    return [line for line in lines if line]
