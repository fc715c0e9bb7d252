"""The commands that change the book: their progress, and their account of what they did."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.book.embeddings import Embedder
from app.book.ingest import IngestError, Report, ingest, remove
from app.book.tree import Book, TreeError, book_url, locale_of, read_book
from app.config import Settings

__all__ = ["Folder", "IngestError", "TreeError", "read_in", "take_out"]


@dataclass(frozen=True)
class Folder:
    """What is to be read in."""

    path: Path
    url: str
    locale: str | None
    """The language of the pages; None if the path says it."""
    title: str | None
    """What the book is called; None if its site says it."""
    exclude: Sequence[str]
    keep_numbers: bool


async def read_in(folder: Folder, settings: Settings, embedder: Embedder) -> None:
    """Read in the book and print what became of it; raises TreeError and IngestError."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    book = read_book(folder.path, folder.url, exclude=folder.exclude, keep_numbers=folder.keep_numbers)
    locale = folder.locale or locale_of(folder.path)
    columns = (TextColumn("Embedding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task("", total=None, visible=False)
            report = await ingest(
                book,
                settings.database,
                embedder if embedder.is_available else None,
                locale=locale,
                title=folder.title,
                on_progress=lambda done, total: progress.update(bar, completed=done, total=total, visible=True),
            )
    finally:
        await embedder.close()
    for line in _account(book, report, locale, settings, embedder):
        console.print(line)


async def take_out(url: str, settings: Settings) -> None:
    """Delete the book of this address and say so; raises TreeError and IngestError."""
    root = book_url(url)
    print(f"{root}: {_count(await remove(root, settings.database), 'chunk')} deleted")  # noqa: T201


def _account(book: Book, report: Report, locale: str, settings: Settings, embedder: Embedder) -> list[str]:
    url = settings.database.url
    unset = "" if settings.database_url else ", since DATABASE_URL is not set"
    changes = f"{report.new:,} new, {report.unchanged:,} unchanged, {report.deleted:,} deleted"
    lines = [
        f"{book.url} ({locale}), in the database {url.database}{f' on {url.host}' if url.host else ''}{unset}:",
        f"  {_count(book.pages, 'page')}, {_count(len(book.chunks), 'chunk')}: {changes}",
        f"  {_count(report.embedded, 'chunk')} embedded with {embedder.model}" if embedder.is_available else "",
    ]
    for (model, dimensions), count in report.replaced.items():
        lines.append(f"  {_count(count, 'embedding')} of {model} with {dimensions} dimensions replaced")
    if report.without_embedding:
        why = "OPENAI_API_KEY is not set" if report.has_pgvector else "the database has no pgvector"
        lines.append(
            f"  {_count(report.without_embedding, 'chunk')} without an embedding, found by words alone, since {why}. "
            "The same command adds them later."
        )
    for other, other_model, count in report.others:
        if other_model != embedder.model and embedder.is_available:
            lines.append(
                f"  {other} has {_count(count, 'embedding')} of {other_model}. Until it is read in again too, "
                "questions find every book of this database by words alone."
            )
    if book.skipped:
        lines.append(f"  {_count(len(book.skipped), 'file')} skipped:")
        lines += [f"    {skipped.file} {skipped.reason}" for skipped in book.skipped]
    return [line for line in lines if line]


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
