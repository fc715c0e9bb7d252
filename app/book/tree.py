"""From a folder of Markdown to the book's chunks, each with the address that Docusaurus gives to its section."""

import math
import os
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import yaml

from app.book.apart import Call, TooLongError, at_once
from app.book.chunks import Chunk, chunk_page, partial_in_page
from app.book.links import repeated_anchor
from app.book.mdx import ReadPartial

MAX_FILE_BYTES = 5_000_000

_MAX_PARTIAL_DEPTH = 10
_MAX_PARTIALS = 100
"""How many partials one page may show, those of its partials included."""
_MAX_PARTIAL_CHARS = 1_000_000
"""How long they may be together."""
_MAX_FRONT_MATTER_CHARS = 50_000

SUFFIXES = (".md", ".mdx")
_OTHER_SUFFIXES = frozenset(
    {
        *(".qmd", ".rmd", ".ipynb", ".rst", ".adoc", ".asciidoc", ".asc", ".org", ".tex", ".typ", ".textile", ".mdoc"),
        *(".markdown", ".mkd", ".mdown", ".html", ".htm"),
    }
)
"""Other kinds of files that pages are written in."""
_GENERATORS = {
    "docusaurus.config.*": None,
    "book.toml": ("mdBook", "mdbook build", "book"),
    "mkdocs.y*ml": ("MkDocs", "mkdocs build", "site"),
    "zensical.toml": ("Zensical", "zensical build", "site"),
    "_quarto.y*ml": ("Quarto", "quarto render", "_book or _site"),
    "_bookdown.yml": ("bookdown", "bookdown::render_book()", "_book or docs"),
    "myst.yml": ("Jupyter Book", "jupyter book build --html", "_build/html"),
    "_toc.yml": ("Jupyter Book", "jupyter-book build .", "_build/html"),
    "conf.py": ("Sphinx", "sphinx-build -b html . _build/html", "_build/html"),
    ".vitepress": ("VitePress", "npx vitepress build", ".vitepress/dist"),
    "astro.config.*": ("Starlight", "npx astro build", "dist"),
    "hugo.*": ("Hugo", "hugo", "public"),
    "antora.yml": ("Antora", "npx antora antora-playbook.yml", "build/site"),
    "docs.json": ("Mintlify", None, None),
    "mint.json": ("Mintlify", None, None),
    ".gitbook.yaml": ("GitBook", None, None),
    "SUMMARY.md": ("mdBook or GitBook", None, None),
}
"""What tells a generator's books: their generator, what builds their site, and where it is then; None for Docusaurus."""
_ARCHIVES = frozenset({".zip", ".gz", ".tgz", ".bz2", ".xz", ".tar", ".7z", ".rar", ".epub"})
_GENERATOR_LEVELS = 3
_INCLUDE = re.compile(
    r"\{\{\s?#(?:include|rustdoc_include|playground|playpen)\s[^{}\n]{1,300}\}\}"
    r"|^[ \t]*-{1,2}8<-{1,2}[ \t]+[\"'][^\"'\n]{1,300}[\"']"
    r"|^[ \t]*[`~:]{3,9}\{(?:include|literalinclude)\}[ \t]+[^\n]{1,300}$"
    r"|\{\{<[ \t]*(?:include|embed)[ \t][^<>\n]{1,300}>\}\}"
    r"|<!--[ \t]*@include:[ \t]*[^\n]{1,300}?-->|^[ \t]*<<<[ \t]*@/[^\n]{1,300}$|\{![^{}!\n]{1,300}!\}",
    re.MULTILINE,
)
"""Includes of other generators: mdBook, MkDocs, MyST, Quarto, VitePress, markdown-include."""
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
    """What was read."""

    url: str
    """The address of the root of the pages; ends in a slash."""
    pages: int
    """How many were read."""
    chunks: list[Chunk]
    skipped: list[Skipped]
    notes: list[str] = field(default_factory=list)
    """What its owner should know besides, each a sentence."""
    locale: str | None = None
    """The language that the pages say they are in."""
    origins: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What is noted of where each page came from, by its address, for the next run."""
    title: str | None = None
    """The title of the site, None if the folder does not say it."""
    parts: Mapping[str, str] = field(default_factory=dict)
    """The titles of the folders directly below the root, by their names in addresses, as far as the site gives them."""
    faults: list[str] = field(default_factory=list)
    """What of its anchors and links leads nowhere, each as a line."""


_OUTSIDE = "leads out of the folder"


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
    includes: list[str]
    """What it includes in the ways of other generators."""
    repeated: list[str]
    """Anchors that several of its headings have."""


@dataclass(frozen=True)
class _Folder:
    """What the site says of a folder, in its `_category_` file or its name."""

    label: str | None
    position: float


def read_book(
    folder: Path, url: str, *, exclude: Sequence[str] = (), keep_numbers: bool = False, call: Call = at_once
) -> Book:
    """Read every page of a Docusaurus docs folder, or of any other folder of Markdown.

    `url` is the address of the folder's root on the site. Files that match a pattern of `exclude` are left out, and so
    are drafts, unlisted pages and the partials that begin with `_`. Nothing outside of the folder is read but the partials
    of the same Docusaurus site. `call` calls what reads a page. Raises TreeError if no page can be read.
    """
    root = book_url(url)
    _check(folder)
    pages: dict[str, _Page] = {}
    skipped: list[Skipped] = []
    files: dict[str, str] = {}
    includes: dict[str, list[str]] = {}
    for file in files_in(folder, exclude, SUFFIXES, skipped):
        try:
            page = call(_read_page, folder, file, root, keep_numbers)
        except (_SkipError, TooLongError) as error:
            skipped.append(Skipped(file, str(error)))
            continue
        if page.includes:
            includes[file] = page.includes
        if (first := files.setdefault(page.address, file)) == file:
            pages[file] = page
            skipped += page.skipped
        else:
            skipped.append(Skipped(file, f"has the same address as {first}"))
    kinds = other_kinds(folder, exclude)
    notes = _notes(folder, kinds, len(files), includes)
    folders = {parent: _read_folder(folder, parent) for file in pages for parent in _parents(file)}
    in_order = sorted(pages, key=lambda file: _place(file, pages[file], folders))
    chunks = [chunk for file in in_order for chunk in pages[file].chunks]
    if not chunks:
        other = "" if kinds else ", and no built site"
        lines = [f"{folder} holds no Markdown that can be read{other}.", *map(_as_line, skipped), *notes]
        raise TreeError("\n".join(lines))
    unnumbered = (lambda name: name) if keep_numbers else _without_number
    parts = {unnumbered(name): found.label for name, found in folders.items() if found.label and "/" not in name}
    faults = [repeated_anchor(file, anchor) for file in in_order for anchor in dict.fromkeys(pages[file].repeated)]
    title = _title_of_site(folder)
    return Book(root, len(files), chunks, skipped, notes, title=title, parts=parts, faults=faults)


def other_kinds(folder: Path, exclude: Sequence[str]) -> Counter[str]:
    """Count the files of pages that are written in other ways than Markdown, by the ends of their names."""
    names = files_in(folder, exclude, None, [])
    suffixes = (posixpath.splitext(name)[1].lower() for name in names)
    return Counter(suffix for suffix in suffixes if suffix in _OTHER_SUFFIXES)


def generator_of(folder: Path) -> tuple[str, str | None, str | None] | None:
    """Return what generates the site of this folder, how, and where it then is; None for Docusaurus and the unknown."""
    for level in (folder.resolve(), *folder.resolve().parents[:_GENERATOR_LEVELS]):
        for pattern, generator in _GENERATORS.items():
            if any(level.glob(pattern)):
                return generator
    return None


def counted(number: int, thing: str) -> str:
    """Return how many there are of a thing, such as `2 pages`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _notes(folder: Path, kinds: Counter[str], pages: int, includes: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what of the book cannot be read from its source, and what to do instead."""
    generator = generator_of(folder)
    unread = kinds.total()
    notes = []
    if kinds:
        files = " and ".join(counted(count, f"{suffix} file") for suffix, count in kinds.most_common())
        notes.append(
            f"{files} {'was' if unread == 1 else 'were'} not read, since only Markdown is read from its source."
        )
    if unread > pages:
        notes.append(f"Far less was read than the folder holds: {pages} of {counted(pages + unread, 'file')}.")
    if includes:
        file, [first, *_] = next(iter(includes.items()))
        number = counted(sum(map(len, includes.values())), "include")
        notes.append(
            f"What {number} in {counted(len(includes), 'page')} would show is missing, such as {first} in {file}."
        )
    if generator:
        name, command, built = generator
        how = (
            f"Build it ({command}), and read the folder {built}" if command else "Read its running site, by its address"
        )
        notes.append(f"This is the source of {name}, whose addresses can differ from Docusaurus's. {how} instead.")
    elif unread > pages or includes:
        notes.append("Build the book's site, and read the folder that this makes instead.")
    return notes


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
    return f"{url.scheme}://{url.netloc.lower()}{quoted(url.path.rstrip('/'))}/"


def _as_line(skipped: Skipped) -> str:
    return f"  {skipped.file} {skipped.reason}"


def check_folder(folder: Path) -> None:
    """Raise TreeError if there is no such folder, or nothing in it."""
    if folder.suffix.lower() in _ARCHIVES and folder.is_file():
        raise TreeError(f"{folder} is not a folder but an archive. Unpack it, and name the folder that this makes.")
    if folder.is_file():
        raise TreeError(
            f"{folder} is not a folder but a file. Name the folder that it is in, with --exclude for the others."
        )
    if not folder.is_dir():
        raise TreeError(f"{folder} is not a folder.")
    with suppress(OSError), os.scandir(folder) as entries:
        if next(entries, None) is None:
            raise TreeError(f"{folder} is empty, so it holds no Markdown and no built site.")


def _check(folder: Path) -> None:
    check_folder(folder)
    if any(folder.glob("docusaurus.config.*")):
        raise TreeError(
            f"{folder} is the folder of a whole site. Please name its folder of pages, such as {folder / 'docs'}."
        )


def files_in(
    folder: Path,
    exclude: Sequence[str],
    suffixes: tuple[str, ...] | None,
    refused: list[Skipped],
    unread: Collection[str] | None = None,
) -> Iterator[str]:
    """Yield the paths in the folder of what may be pages, in a fixed order; links that lead out of it are refused.

    Folders of these names are `unread`; without any, names that begin with an underscore are, as Docusaurus has it.
    """
    hidden = "." if unread is not None else (".", "_")
    seen = set[str]()
    home = os.path.realpath(folder)
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        relative = Path(parent).relative_to(folder).as_posix()
        if not _is_within(real, home):
            refused.append(Skipped(relative, _OUTSIDE))
        if real in seen or not _is_within(real, home):  # A link can lead back to a folder that holds it.
            folders.clear()
            continue
        seen.add(real)
        paths = {name: posixpath.normpath(posixpath.join(relative, name)) for name in (*folders, *files)}
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(hidden)
            and name not in (unread or ())
            and name not in _UNREAD_FOLDERS
            and not is_excluded(paths[name], exclude)
        )
        for name in sorted(files):
            is_page = (suffixes is None or name.endswith(suffixes)) and not name.startswith(hidden)
            if not is_page or is_excluded(paths[name], exclude):
                continue
            path = Path(parent, name)
            if path.is_symlink() and not _is_within(os.path.realpath(path), home):
                refused.append(Skipped(paths[name], _OUTSIDE))
            else:
                yield paths[name]


def _is_within(path: str, home: str) -> bool:
    return path == home or path.startswith(os.path.join(home, ""))  # noqa: PTH118  # Both are strings, from realpath.


def is_excluded(path: str, patterns: Sequence[str]) -> bool:
    """Whether a path in the folder matches one of the patterns."""
    # A pattern such as **/drafts/** also means the folder itself, at the root too.
    candidates = (path, f"/{path}", f"{path}/", f"/{path}/")
    return any(fnmatchcase(candidate, pattern.removeprefix("./")) for pattern in patterns for candidate in candidates)


def _read_page(folder: Path, file: str, root: str, keep_numbers: bool) -> _Page:  # noqa: FBT001  # Calls are sent elsewhere.
    front_matter, text = _front_matter(read_file(folder / file))
    for name in ("draft", "unlisted"):
        if front_matter.get(name, "").lower() == "true":
            raise _SkipError(f"is {'a draft' if name == 'draft' else name}")
    keep_numbers = keep_numbers or front_matter.get("parse_number_prefixes", "").lower() == "false"
    slug, name = _slug(file, front_matter, keep_numbers=keep_numbers)
    address = root + quoted(slug.lstrip("/"))
    skipped: list[Skipped] = []
    repeated: list[str] = []
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
            read_partial=_Partials(folder, folder / file, skipped).reader_of(folder / file),
            repeated=repeated,
        )
    except RecursionError:
        raise _SkipError("is nested too deeply") from None
    return _Page(address, chunks, list(dict.fromkeys(skipped)), position, _INCLUDE.findall(text), repeated)


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
            values: Any = yaml.load(read_file(folder / name / f"_category_.{suffix}"), Loader=yaml.BaseLoader)  # noqa: S506  # As for front matter.
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
                found = _SITE_TITLE.search(read_file(file))
            except _SkipError:
                continue
            return " ".join(found["title"].split()) if found else None
    return None


class _Partials:
    """The partials of one page, of which there may be only so many; what cannot be read is empty, and noted."""

    def __init__(self, folder: Path, page: Path, skipped: list[Skipped]) -> None:
        self._folder = folder
        self._page = posixpath.relpath(page, folder)
        self._skipped = skipped
        above = folder.resolve().parents
        self._site = next((parent for parent in above if any(parent.glob("docusaurus.config.*"))), None)
        self._number = 0
        self._chars = 0

    def reader_of(self, importing: Path, above: tuple[Path, ...] = ()) -> ReadPartial:
        """Return what reads the partials that a file imports, and theirs."""

        def read(name: str) -> str:
            try:
                path = self._imported(importing, name)
                if path in above:
                    return ""  # It imports itself.
                text = self._read(path, depth=len(above))
            except _SkipError as error:
                within = posixpath.relpath(importing, self._folder)
                self._skipped.append(Skipped(f"{name}, a partial of {within},", str(error)))
                return ""
            return partial_in_page(text, read_partial=self.reader_of(path, (*above, path)))

        return read

    def _imported(self, importing: Path, name: str) -> Path:
        """Return the file that an import names: beside the file that imports it, or below the folder of the site."""
        site = self._site or self._folder.parent
        path = (site / name.removeprefix("@site/") if name.startswith("@site/") else importing.parent / name).resolve()
        homes = (self._folder.resolve(), *([self._site] if self._site else []))
        if not any(path.is_relative_to(home) for home in homes):
            raise _SkipError(_OUTSIDE)
        return path

    def _read(self, path: Path, *, depth: int) -> str:
        if depth >= _MAX_PARTIAL_DEPTH:
            raise _SkipError(f"is left out, since partials are read {_MAX_PARTIAL_DEPTH} deep")
        if self._number >= _MAX_PARTIALS or self._chars >= _MAX_PARTIAL_CHARS:
            raise _SkipError(
                f"is left out, since {self._page} shows more than {_MAX_PARTIALS} partials or {_MAX_PARTIAL_CHARS:,} characters of them"
            )
        _, text = _front_matter(read_file(path))
        self._number += 1
        self._chars += len(text)
        return text


def _format(file: str, front_matter: Mapping[str, str]) -> str:
    given = front_matter.get("format", "detect")
    return posixpath.splitext(file)[1][1:] if given == "detect" else given


def read_file(path: Path) -> str:
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
    if len(found["yaml"]) > _MAX_FRONT_MATTER_CHARS:
        raise _SkipError("has front matter that is too long")
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


def quoted(path: str) -> str:
    """Return the path as browsers send it."""
    return quote(path, safe="/%!$&'()*+,;=:@-._~[]|")
