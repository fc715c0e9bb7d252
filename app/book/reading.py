"""Whole pages of a book as Markdown, for readers' assistants and for `llms.txt`."""

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import Any

from sqlalchemy import Row, Select, Uuid, and_, bindparam, select
from sqlmodel import col

from app.book.shelf import SEPARATOR
from app.database import Database
from app.models import Document, StoredPage

MAX_PAGE_CHARS = 200_000
"""How much of a page is read at most."""
_MOST_CHUNKS = 1_000
_DEEPEST_HEADING = 6
_DESCRIPTION_CHARS = 160

_OF_BOOK = col(StoredPage.book_id) == bindparam("book", type_=Uuid())
_PAGE: Select[*tuple[Any, ...]] = (
    select(
        col(StoredPage.address), col(StoredPage.title), col(StoredPage.part), col(Document.content),
        col(Document.title).label("path"),
    )
    .join(Document, and_(col(Document.book_id) == col(StoredPage.book_id), col(Document.page) == col(StoredPage.page)))
    .order_by(col(StoredPage.number), col(Document.position), col(Document.id))
)  # fmt: skip
_ONE_PAGE = _PAGE.where(_OF_BOOK, col(StoredPage.page) == bindparam("page")).limit(_MOST_CHUNKS)
_PAGE_NUMBERED = _PAGE.where(_OF_BOOK, col(StoredPage.number) == bindparam("number"))
_BEGINNINGS = (
    select(
        col(StoredPage.number), col(StoredPage.address), col(StoredPage.title), col(StoredPage.part),
        col(StoredPage.headings), col(Document.content),
    )
    .outerjoin(
        Document,
        and_(
            col(Document.book_id) == col(StoredPage.book_id),
            col(Document.page) == col(StoredPage.page),
            col(Document.position) == 0,
        ),
    )
    .where(_OF_BOOK)
    .order_by(col(StoredPage.number), col(Document.id))
)  # fmt: skip


@dataclass(frozen=True)
class PageText:
    """A page of a book, with its text in Markdown."""

    address: str
    title: str
    part: str | None
    text: str
    is_whole: bool


async def read_page(database: Database, book: Row[Any], page: str) -> PageText | None:
    """Return the page with this comparable address; None if the book does not have it. Raises DatabaseError."""
    rows = await database.execute((_ONE_PAGE, {"book": book.id, "page": page}))
    if not rows:
        return None
    text = _as_markdown(rows)
    is_whole = len(text) <= MAX_PAGE_CHARS and len(rows) < _MOST_CHUNKS
    return PageText(rows[0].address, rows[0].title, rows[0].part, text[:MAX_PAGE_CHARS], is_whole)


def _as_markdown(chunks: Sequence[Row[Any]]) -> str:
    """Return the chunks with the headings between them, which are in their titles."""
    parts: list[str] = []
    before: list[str] = []
    for chunk in chunks:
        path = chunk.path.split(SEPARATOR)
        known = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, path, strict=False)))
        for level, heading in enumerate(path[known:], known + 1):
            parts.append(f"{'#' * min(level, _DEEPEST_HEADING)} {heading}")
        parts.append(chunk.content.strip())
        before = path
    return "\n\n".join(parts)


async def llms_txt(database: Database, book: Row[Any], *, title: str) -> str:
    """Return the book's `llms.txt`: its title, what it is about, and a link to each page with a description."""
    rows = await database.execute((_BEGINNINGS, {"book": book.id}))
    pages = [next(of_page) for _, of_page in groupby(rows, key=lambda row: row.number)]
    lines = [f"# {_on_one_line(title)}", ""]
    if about := _description(pages[0]) if pages else "":
        lines += [f"> {about}", ""]
    parts: dict[str, list[str]] = {}
    for page in pages:
        entry = f"- [{_label(page.title)}]({_target(page.address)})"
        description = _description(page)
        parts.setdefault(page.part or "Pages", []).append(f"{entry}: {description}" if description else entry)
    for part, entries in parts.items():
        lines += [f"## {_on_one_line(part)}", "", *entries, ""]
    return "\n".join(lines)


async def page_texts(database: Database, book: Row[Any]) -> AsyncIterator[str]:
    """Yield the text of each page with its address, in their order, one page in memory at a time."""
    for number in range(book.pages):
        if rows := await database.execute((_PAGE_NUMBERED, {"book": book.id, "number": number})):
            yield f"{_as_markdown(rows)}\n\nSource: {rows[0].address}\n"


def _description(page: Row[Any]) -> str:
    """Return the beginning of the page's first paragraph; where there is none, its first headings."""
    paragraph = next(_paragraphs(page.content or ""), "") or ", ".join(page.headings)
    if len(paragraph) <= _DESCRIPTION_CHARS:
        return paragraph
    cut = paragraph[:_DESCRIPTION_CHARS]
    sentence = re.match(r".{40,}[.!?。\u06d4؟।](?=\s|$)", cut)
    if sentence:
        return sentence[0]
    return f"{cut.rpartition(' ')[0] or cut}…"


_FENCED = re.compile(r"^[ \t]*(`{3,}|~{3,}).*?(?:^[ \t]*\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_NOT_PROSE = re.compile(r"[#|<>!:$*+-]|\d+[.)]\s")
_LINK = re.compile(r"\[([^\[\]]*)\]\([^()\s]*\)")


def _paragraphs(markdown: str) -> Iterator[str]:
    """Yield the paragraphs of prose as plain text on one line."""
    for block in re.split(r"\n\s*\n", _FENCED.sub("", markdown)):
        if block.strip() and not _NOT_PROSE.match(block.strip()):
            yield _on_one_line(re.sub(r"[*`]|\b_|_\b", "", _LINK.sub(r"\1", block)))


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _label(title: str) -> str:
    return re.sub(r"([\\\[\]])", r"\\\1", _on_one_line(title))


def _target(address: str) -> str:
    return address.replace("(", "%28").replace(")", "%29")
