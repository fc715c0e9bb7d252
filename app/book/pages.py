"""The pages of a book, in their order, with what the table of contents says of each."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from app.book.chunks import Chunk
from app.book.shelf import SEPARATOR, comparable

_MAX_HEADINGS = 100
_FENCED = re.compile(
    r"^[ \t>]*(?P<fence>`{3,}|~{3,}).*?(?:^[ \t>]*(?P=fence)[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL
)
_HEADING = re.compile(r"^#{2,6} (.+)$", re.MULTILINE)


@dataclass
class Page:
    """A page of the book."""

    page: str
    """Its address, as addresses are compared."""
    address: str
    title: str
    part: str | None
    """The title of its part of the book; None if it is a part by itself."""
    headings: list[str] = field(default_factory=list)
    """The paths of the headings below its title, in their order."""


def pages_of(url: str, chunks: Sequence[Chunk], parts: Mapping[str, str]) -> list[Page]:
    """Return the pages of the chunks, in their order.

    The parts of a book are the folders directly below its address, whose titles `parts` gives; without one there, the folder's
    own page gives it, or else its name. A page directly below the book's address is a part by itself.
    """
    pages: dict[str, Page] = {}
    keys = {address: comparable(address) for address in {chunk.page for chunk in chunks}}
    for chunk in chunks:
        key = keys[chunk.page]
        headings = chunk.title.split(SEPARATOR)
        page = pages.setdefault(key, Page(key, chunk.page, headings[0], None))
        paths = [SEPARATOR.join(headings[1:])] if headings[1:] else []
        # A chunk of several short sections has the heading of each in its text.
        if "## " in chunk.text:
            paths += [heading.strip() for heading in _HEADING.findall(_FENCED.sub("", chunk.text))]
        known = {*page.headings, *(path.rpartition(SEPARATOR)[2] for path in page.headings)}
        page.headings += [path for path in dict.fromkeys(paths) if path not in known]
    _put_into_parts(comparable(url), pages, parts)
    for page in pages.values():
        del page.headings[_MAX_HEADINGS:]
    return list(pages.values())


def _put_into_parts(root: str, pages: Mapping[str, Page], parts: Mapping[str, str]) -> None:
    folders = {key: _folder(root, key) for key in pages}
    # A page at the folder's own address is one of its pages.
    below = {folder for key, folder in folders.items() if key != f"{root}/{folder}"} - {""}
    for key, page in pages.items():
        folder = folders[key]
        if folder in below:
            own = pages.get(f"{root}/{folder}")
            page.part = parts.get(folder) or (own.title if own else _as_title(folder))


def _folder(root: str, key: str) -> str:
    """Return the first part of a page's path below the book's address."""
    return key.removeprefix(f"{root}/").partition("/")[0] if key.startswith(f"{root}/") else ""


def _as_title(folder: str) -> str:
    words = re.sub("[-_]+", " ", unquote(folder)).strip()
    return words[:1].upper() + words[1:]
