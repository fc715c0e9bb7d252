"""From a folder of Markdown to the book's chunks, each with the address that Docusaurus gives to its section."""

import math
import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import yaml

from app.book.chunks import Chunk, chunk_page, partial_in_page
from app.book.mdx import ReadPartial

MAX_FILE_BYTES = 5_000_000

_SUFFIXES = (".md", ".mdx")
_LOCALE = re.compile(r"/i18n/([^/]+)/docusaurus-plugin-content-docs[^/]*/")
_DEFAULT_LOCALE = "en"  # Docusaurus has the same.
_UNREAD_FOLDERS = frozenset({"node_modules", "__tests__"})
_FRONT_MATTER = re.compile(r"---[ \t]*\n(?P<yaml>.*?)(?:^|\n)---[ \t]*(?:\n|$)", re.DOTALL)
_NOT_IN_HOST = re.compile(r"[\s@\\<>\"]")
_SITE_TITLE = re.compile(r"""^\s*title:\s*(?P<quote>["'`])(?P<title>[^"'`\n$]+)(?P=quote)""", re.MULTILINE)
_NO_PREFIX = re.compile(r"[0-9]+[-_.][0-9]+")
_PREFIX = re.compile(r"[0-9]+\s*[-_.]+\s*([^-_.\s].*)")


class TreeError(Exception):
    """There is no book in this folder; the message says why."""


@dataclass(frozen=True)
class Skipped:
    """A file that is not in the book, and why."""

    file: str
    """Its path in the folder."""
    reason: str


@dataclass(frozen=True)
class Book:
    """What the folder holds."""

    url: str
    """The address of the root of the pages; ends in a slash."""
    pages: int
    """How many files were read."""
    chunks: list[Chunk]
    skipped: list[Skipped]
    title: str | None = None
    """The title of the site, None if the folder does not say it."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """The titles of the folders directly below the root, by their names in addresses, as far as the site gives them."""


class _SkipError(Exception):
    """The file is not to be read; the message says why."""


@dataclass(frozen=True)
class _Page:
    address: str
    chunks: list[Chunk]
    skipped: list[Skipped]
    """Partials that it imports and that cannot be read."""
    position: float
    """Its place among its neighbours, as its file says; without one, it comes after those that have one."""


@dataclass(frozen=True)
class _Folder:
    """What the site says of a folder, in its `_category_` file or its name."""

    label: str | None
    position: float


def read_book(folder: Path, url: str, *, exclude: Sequence[str] = (), keep_numbers: bool = False) -> Book:
    """Read every page of a Docusaurus docs folder, or of any other folder of Markdown.

    `url` is the address of the folder's root on the site. Files that match a pattern of `exclude` are left out, and so
    are drafts, unlisted pages and the partials that begin with `_`. Raises TreeError if no page can be read.
    """
    root = book_url(url)
    _check(folder)
    pages: dict[str, _Page] = {}
    skipped: list[Skipped] = []
    files: dict[str, str] = {}
    for file in _files(folder, exclude):
        try:
            page = _read_page(folder, file, root, keep_numbers=keep_numbers)
        except _SkipError as error:
            skipped.append(Skipped(file, str(error)))
            continue
        if (first := files.setdefault(page.address, file)) == file:
            pages[file] = page
            skipped += page.skipped
        else:
            skipped.append(Skipped(file, f"has the same address as {first}"))
    folders = {parent: _read_folder(folder, parent) for file in pages for parent in _parents(file)}
    in_order = sorted(pages, key=lambda file: _place(file, pages[file], folders))
    chunks = [chunk for file in in_order for chunk in pages[file].chunks]
    if not chunks:
        raise TreeError("\n".join([f"{folder} holds no Markdown that can be read.", *map(_as_line, skipped)]))
    unnumbered = (lambda name: name) if keep_numbers else _without_number
    parts = {unnumbered(name): found.label for name, found in folders.items() if found.label and "/" not in name}
    return Book(root, len(files), chunks, skipped, title=_title_of_site(folder), parts=parts)


def locale_of(folder: Path) -> str:
    """Return the language of a folder that holds a Docusaurus site's translation; of any other, English."""
    found = _LOCALE.search(f"{folder.resolve().as_posix()}/")
    return found[1] if found else _DEFAULT_LOCALE


def book_url(text: str) -> str:
    """Return the address that the book's addresses begin with; raises TreeError."""
    try:
        url = urlsplit(text.strip())
        is_usable = (
            url.scheme in {"http", "https"}
            and bool(url.hostname)
            and url.port != 0  # A port that is none raises ValueError.
            and not (_NOT_IN_HOST.search(url.netloc) or url.query or url.fragment)
        )
    except ValueError:
        is_usable = False
    if not is_usable:
        raise TreeError(f"{text!r} is not an address such as https://book.example.org/docs/")
    return f"{url.scheme}://{url.netloc.lower()}{_quoted(url.path.rstrip('/'))}/"


def _as_line(skipped: Skipped) -> str:
    return f"  {skipped.file} {skipped.reason}"


def _check(folder: Path) -> None:
    if not folder.is_dir():
        raise TreeError(f"{folder} is not a folder.")
    if any(folder.glob("docusaurus.config.*")):
        raise TreeError(
            f"{folder} is the folder of a whole site. Please name its folder of pages, such as {folder / 'docs'}."
        )


def _files(folder: Path, exclude: Sequence[str]) -> Iterator[str]:
    """Yield the paths in the folder of what may be pages, in a fixed order."""
    seen = set[str]()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # A link leads back to a folder that holds it.
            folders.clear()
            continue
        seen.add(real)
        relative = Path(parent).relative_to(folder).as_posix()
        paths = {name: posixpath.normpath(posixpath.join(relative, name)) for name in (*folders, *files)}
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith((".", "_"))
            and name not in _UNREAD_FOLDERS
            and not _is_excluded(paths[name], exclude)
        )
        for name in sorted(files):
            is_page = name.endswith(_SUFFIXES) and not name.startswith((".", "_"))
            if is_page and not _is_excluded(paths[name], exclude):
                yield paths[name]


def _is_excluded(path: str, patterns: Sequence[str]) -> bool:
    # A pattern such as **/drafts/** also means the folder itself, at the root too.
    candidates = (path, f"/{path}", f"{path}/", f"/{path}/")
    return any(fnmatchcase(candidate, pattern.removeprefix("./")) for pattern in patterns for candidate in candidates)


def _read_page(folder: Path, file: str, root: str, *, keep_numbers: bool) -> _Page:
    front_matter, text = _front_matter(_read_file(folder / file))
    for name in ("draft", "unlisted"):
        if front_matter.get(name, "").lower() == "true":
            raise _SkipError(f"is {'a draft' if name == 'draft' else name}")
    keep_numbers = keep_numbers or front_matter.get("parse_number_prefixes", "").lower() == "false"
    slug, name = _slug(file, front_matter, keep_numbers=keep_numbers)
    address = root + _quoted(slug.lstrip("/"))
    skipped: list[Skipped] = []
    if _is_index(file):
        position = -math.inf
    else:
        position = _position(front_matter.get("sidebar_position"), posixpath.basename(file))
    try:
        chunks = chunk_page(
            text,
            page=address,
            title=front_matter.get("title"),
            fallback=front_matter.get("sidebar_label") or name,
            is_mdx=_format(file, front_matter) == "mdx",
            read_partial=_reader_of_partials(folder, folder / file, skipped),
        )
    except RecursionError:
        raise _SkipError("is nested too deeply") from None
    return _Page(address, chunks, skipped, position)


def _parents(file: str) -> Iterator[str]:
    """Yield the folders that the file is in, the outermost first."""
    names = file.split("/")[:-1]
    return ("/".join(names[:end]) for end in range(1, len(names) + 1))


def _place(file: str, page: _Page, folders: Mapping[str, _Folder]) -> list[tuple[float, str]]:
    """Return what orders pages as the site's sidebar does, if the site does not write one itself."""
    *_, name = file.split("/")
    return [
        *((folders[parent].position, posixpath.basename(parent)) for parent in _parents(file)),
        (page.position, name),
    ]


def _read_folder(folder: Path, name: str) -> _Folder:
    for suffix in ("json", "yml", "yaml"):
        try:
            values: Any = yaml.load(_read_file(folder / name / f"_category_.{suffix}"), Loader=yaml.BaseLoader)  # noqa: S506  # As for front matter.
        except (_SkipError, yaml.YAMLError, RecursionError):
            continue
        if isinstance(values, dict):
            label, position = values.get("label"), values.get("position")
            return _Folder(
                " ".join(label.split()) or None if isinstance(label, str) else None,
                _position(position if isinstance(position, str) else None, posixpath.basename(name)),
            )
    return _Folder(None, _position(None, posixpath.basename(name)))


def _position(given: str | None, name: str) -> float:
    """Return the position that is given, or the number that the name begins with."""
    try:
        return float(given or "")
    except ValueError:
        prefix = None if _NO_PREFIX.match(name) else _PREFIX.fullmatch(name)
        return float(re.match("[0-9]+", name)[0]) if prefix else math.inf  # type: ignore[index]  # The prefix has one.


def _title_of_site(folder: Path) -> str | None:
    """Return the title in the configuration of the Docusaurus site that the folder is in."""
    for parent in folder.resolve().parents:
        for file in sorted(parent.glob("docusaurus.config.*")):
            try:
                found = _SITE_TITLE.search(_read_file(file))
            except _SkipError:
                continue
            return " ".join(found["title"].split()) if found else None
    return None


def _reader_of_partials(
    folder: Path, importing: Path, skipped: list[Skipped], above: frozenset[Path] = frozenset()
) -> ReadPartial:
    """Return what reads the partials that a file imports, and theirs; what cannot be read is empty, and noted."""

    def read(name: str) -> str:
        path = _imported(folder, importing, name).resolve()
        if path in above:
            return ""  # It imports itself.
        try:
            _, text = _front_matter(_read_file(path))
        except _SkipError as error:
            skipped.append(Skipped(f"{name}, a partial of {posixpath.relpath(importing, folder)},", str(error)))
            return ""
        return partial_in_page(text, read_partial=_reader_of_partials(folder, path, skipped, above | {path}))

    return read


def _imported(folder: Path, importing: Path, name: str) -> Path:
    """Return the file that an import names: beside the file that imports it, or below the folder of the site's configuration."""
    if not name.startswith("@site/"):
        return importing.parent / name
    above = folder.resolve().parents
    site = next((parent for parent in above if any(parent.glob("docusaurus.config.*"))), folder.parent)
    return site / name.removeprefix("@site/")


def _format(file: str, front_matter: Mapping[str, str]) -> str:
    given = front_matter.get("format", "detect")
    return posixpath.splitext(file)[1][1:] if given == "detect" else given


def _read_file(path: Path) -> str:
    """Return the file's text, its lines ended by line feeds."""
    try:
        if not path.is_file() and path.exists():  # Reading a pipe would wait for somebody to write.
            raise _SkipError("is not a file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _SkipError(f"is larger than {MAX_FILE_BYTES / 1_000_000:.0f} MB")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise _SkipError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _SkipError("is not UTF-8") from None
    if "\0" in text:
        raise _SkipError("is not text")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _front_matter(text: str) -> tuple[Mapping[str, str], str]:
    """Return the front matter's plain values, as they are written, and the text after it."""
    found = _FRONT_MATTER.match(text)
    if found is None:
        return {}, text
    try:
        # The other loaders read `yes`, 1.10 and dates by the rules of a YAML that Docusaurus does not use.
        values: Any = yaml.load(found["yaml"], Loader=yaml.BaseLoader)  # noqa: S506  # This loader makes only strings.
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise _SkipError(f"has front matter that is not YAML{f', in line {mark.line + 2}' if mark else ''}") from None
    if not isinstance(values, dict):
        return {}, text if values else text[found.end() :]
    plain = {str(name): " ".join(value.split()) for name, value in values.items() if isinstance(value, str)}
    return {name: value for name, value in plain.items() if value}, text[found.end() :]


def _slug(file: str, front_matter: Mapping[str, str], *, keep_numbers: bool) -> tuple[str, str]:
    """Return the page's path below the root, with a slash before it, and the name that stands for a title."""
    folder, name = posixpath.split(posixpath.splitext(file)[0])
    unnumbered = (lambda part: part) if keep_numbers else _without_number
    parts = [unnumbered(part) for part in folder.split("/")] if folder else []
    folder_slug = "/".join(["", *parts, ""])
    slug = front_matter.get("slug", "")
    base = front_matter.get("id") or unnumbered(name)
    if slug.startswith("/"):
        path = slug
    elif not slug and _is_index(file):
        path, base = folder_slug, (parts or ["Home"])[-1]
    else:
        path = posixpath.normpath(posixpath.join(folder_slug, slug or base)) + ("/" if slug.endswith("/") else "")
    return re.sub("/{2,}", "/", path), base


def _is_index(file: str) -> bool:
    """Whether the page is the one of its folder."""
    folder, name = posixpath.split(posixpath.splitext(file)[0])
    return name.lower() in {"index", "readme", posixpath.basename(folder).lower()}


def _without_number(name: str) -> str:
    """Return the name without the number that only puts it in its place; dates and versions stay."""
    prefix = None if _NO_PREFIX.match(name) else _PREFIX.fullmatch(name)
    return prefix[1] if prefix else name


def _quoted(path: str) -> str:
    return quote(path, safe="/%!$&'()*+,;=:@-._~[]|")
