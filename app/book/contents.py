"""The table of contents as passages: what the parts of a book are, and what stands in each of them."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row

from app.book.lengths import shortened
from app.book.shelf import SEPARATOR, comparable
from app.intent import part_of, subject_of
from app.retrieval import Passage

_MOST_PARTS = 2
"""How many parts a question gets in full at most."""
_OVERVIEW_BYTES = 3_000
_PART_BYTES = 2_500

_NUMBER_IN_TITLE = re.compile(
    r"\b(?:chapter|part|module|unit|lesson|week|lecture|باب|سبق)\s+(\d{1,3})\b|^(\d{1,3})[.:)]?\s", re.IGNORECASE
)
_NUMBER_IN_PATH = re.compile(
    r"(?:ch|chap|chapter|part|module|unit|lesson|week|lecture)?[-_]?0*(\d{1,3})(?=[-_/]|$)", re.IGNORECASE
)


@dataclass
class _Part:
    """A part of the book: a folder of pages, or a page by itself."""

    title: str
    address: str
    number: int | None
    """The number that its title or its address gives it, or else its place."""
    pages: list[Row[Any]] = field(default_factory=list)


def contents_passages(
    book_address: str, pages: Sequence[Row[Any]], question: str, *, here: str | None
) -> list[Passage]:
    """Return what the table of contents says on the question: first all parts, and then the parts that it is about.

    The pages must come in their order; `here` is the address of the one that the reader is on.
    """
    root = comparable(book_address)
    parts = _parts([page for page in pages if comparable(page.source) != root], root)
    if not parts:
        return []
    return [
        Passage(shortened(_overview(parts), _OVERVIEW_BYTES), book_address, "Contents"),
        *(
            Passage(shortened(_whole(part), _PART_BYTES), part.address, f"Contents{SEPARATOR}{part.title}")
            for part in _chosen(parts, question, here)
        ),
    ]


def _parts(pages: Sequence[Row[Any]], root: str) -> list[_Part]:
    parts: list[_Part] = []
    for page in pages:
        if page.page is None or not parts or parts[-1].title != page.page:
            title = page.page or page.title
            path = comparable(page.source).removeprefix(f"{root}/")
            parts.append(_Part(title, page.source, _number_in(title, path)))
        parts[-1].pages.append(page)
    # Most have a number, or all of them are counted.
    if sum(part.number is not None for part in parts) <= len(parts) / 2:
        for number, part in enumerate(parts, 1):
            part.number = number
    return parts


def _number_in(title: str, path: str) -> int | None:
    found = _NUMBER_IN_TITLE.search(title) or _NUMBER_IN_PATH.match(path)
    return next((int(number) for number in found.groups() if number), None) if found else None


def _overview(parts: Sequence[_Part]) -> str:
    """Return the list of the parts with their pages, or without if that is too long."""
    head = f"The book has {len(parts)} part{'' if len(parts) == 1 else 's'}:"
    with_pages = "\n".join([head, *(_line(part, [page.title for page in part.pages]) for part in parts)])
    if len(with_pages.encode()) <= _OVERVIEW_BYTES:
        return with_pages
    return "\n".join([head, *(_line(part, []) for part in parts)])


def _line(part: _Part, titles: Sequence[str]) -> str:
    others = [title for title in titles if title != part.title]
    return f"- {_label(part)}" + (f" ({'; '.join(others)})" if others else "")


def _label(part: _Part) -> str:
    if part.number is None or re.search(rf"\b{part.number}\b", part.title):
        return part.title
    return f"{part.number}. {part.title}"


def _whole(part: _Part) -> str:
    """Return the part's pages with their headings."""
    count = len(part.pages)
    lines = [f"{_label(part)} has {count} page{'' if count == 1 else 's'}:"]
    for page in part.pages:
        headings = [path.rpartition(SEPARATOR)[2] for path in json.loads(page.text)]
        lines.append(f"- {page.title}" + (f": {'; '.join(headings)}" if headings else ""))
    return "\n".join(lines)


def _chosen(parts: Sequence[_Part], question: str, here: str | None) -> list[_Part]:
    """Return the parts that the question names by their number or their place, or else those with its words in them."""
    named = part_of(question)
    if isinstance(named, int):
        by_page = [part for part in parts if any(_number_in(page.title, "") == named for page in part.pages)]
        return ([part for part in parts if part.number == named] or by_page)[:_MOST_PARTS]
    if named == "last":
        return [parts[-1]]
    current = next((i for i, part in enumerate(parts) if any(page.source == here for page in part.pages)), None)
    if named in {"next", "previous"} and current is not None:
        index = current + (1 if named == "next" else -1)
        return [parts[index]] if 0 <= index < len(parts) else []
    words = set(subject_of(question))
    scores = [sum(any(word in text for text in _texts(part)) for word in words) for part in parts]
    best = sorted((index for index, score in enumerate(scores) if score), key=lambda index: -scores[index])
    return [parts[index] for index in best[:_MOST_PARTS]]


def _texts(part: _Part) -> list[str]:
    return [text.casefold() for page in part.pages for text in (page.title, *json.loads(page.text))]
