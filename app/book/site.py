"""From a built site to the book's chunks: which pages it has, which address each of them has, and which are left out."""

import codecs
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit
from xml.etree import ElementTree as ET  # Expat bounds what entities grow to, and reads no others.

from app.book.apart import Call, TooLongError, at_once
from app.book.article import Article, read_article
from app.book.chunks import Chunk, chunk_sections
from app.book.links import Linked, faults
from app.book.tree import MAX_FILE_BYTES, Book, Skipped, TreeError, book_url, check_folder, files_in, quoted

SUFFIXES = (".html", ".htm", ".xhtml", ".HTML", ".HTM", ".XHTML")
_SUFFIX = re.compile(r"\.x?html?$")

_NO_PAGES = re.compile(r"(?:genindex.*|py-modindex|modindex|domainindex|searchindex|google[0-9a-f]{16})")
_NO_PAGES_AT_ROOT = frozenset({"404", "print"})
_NO_PAGES_IF_SHORT = frozenset({"404", "search"})
_SHORT_CHARS = 400
"""A page of these names with no more text than this is the one that searches the site, or says that there is none."""
_NO_FOLDERS = frozenset(
    {
        *("_static", "_sources", "_modules", "_images", "_downloads", "_assets", "_app", "_next", "_nuxt", "_astro"),
        *("_pagefind", "_includes", "_layouts", "_partials"),
    }
)
"""Folders of generators that hold no pages of the book."""
_TITLE_SEPARATOR = re.compile(r"(\s+(?:[|\u2013\u2014\u00b7\u2022\u00bb]|-|::)\s+)")
_NAME_BEHIND = re.compile(r"\s\(([^()]+)\)$")
"""Where the name of a site also stands."""
_UNSAID = re.compile(rb"<!--.*?(?:-->|$)|<(script|style)\b.*?(?:</\1|$)", re.IGNORECASE | re.DOTALL)
_META = re.compile(rb"<meta\b[^>]{0,300}", re.IGNORECASE)
_CONTENT = re.compile(rb"""\bcontent\s{0,9}=\s{0,9}(?:"[^"]*|'[^']*)""", re.IGNORECASE)
_CHARSET = re.compile(rb"charset\s{0,9}=\s{0,9}[\"']?\s{0,9}([\w.:-]{1,40})", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"^\s{0,99}<\?xml[^>]{0,200}?encoding\s{0,9}=\s{0,9}[\"']([\w.:-]{1,40})")
_PRESCAN_BYTES = 4_096
_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_UNMARKED = {b"<\0": "utf-16-le", b"\0<": "utf-16-be"}
"""How pages begin that are in an encoding which they cannot be asked for."""
_WIDER = {
    **dict.fromkeys(("iso8859-1", "ascii", "latin-1", "cp1252"), "cp1252"),
    "iso8859-9": "cp1254",
    "iso8859-11": "cp874",
    "tis-620": "cp874",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    **dict.fromkeys(("gb2312", "gbk", "hz"), "gb18030"),
    # A page that can be read as bytes of ASCII is in no such encoding, whatever it says.
    **dict.fromkeys(("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7"), "utf-8"),
}
"""Encodings whose names browsers take for wider ones."""


@dataclass(frozen=True)
class Page:
    """A page that was read."""

    name: str
    """What the book's owner knows it by: its file or its address."""
    address: str
    """Where it lies, which is its address unless it says itself that it has another."""
    article: Article
    origin: dict[str, str] | None = None
    """What is to be noted of where it came from."""


@dataclass
class Pages:
    """The pages of a site, as they come."""

    url: str
    read: list[Page] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    kept: dict[str, tuple[list[Chunk], dict[str, str]]] = field(default_factory=dict)
    """Pages that have not changed, with their origins."""

    exists: Callable[[str], bool] = lambda _address: True
    """Whether there is something at an address of the site that is no page of the book."""
    order: dict[str, int] = field(default_factory=dict)
    """The place of each page in the book, by its name; without one, pages stand in the order in which they came."""

    def keep(self, name: str, chunks: list[Chunk], origin: dict[str, str]) -> None:
        """Take a page as it is in the database."""
        self.kept[name] = (chunks, origin)

    def add(self, name: str, address: str, article: Article, origin: dict[str, str] | None = None) -> None:
        """Take the page, or note why it is left out."""
        reason = _no_page(address.removeprefix(self.url), article)
        if reason:
            self.skipped.append(Skipped(name, reason))
        else:
            self.read.append(Page(name, address, article, origin))

    def book(self, notes: Iterable[str] = ()) -> Book:
        """Return the book of these pages; raises TreeError if they say nothing."""
        site_names = self._site_names()
        origins: dict[str, dict[str, str]] = {}
        first: dict[str, str] = {}
        found: dict[str, list[Chunk]] = {}
        for name, (known, origin) in self.kept.items():
            first[known[0].page] = first[origin.get("digest", "")] = name
            origins[known[0].page] = origin
            found[name] = known
        addresses = _addresses(self.read, self.url, frozenset(origins))
        count = len(self.kept)
        for page in sorted(self.read, key=lambda page: self._place(page.name)):
            address = addresses[page.name]
            same = first.get(address) or first.get(page.article.digest)
            if same is not None:
                self.skipped.append(Skipped(page.name, f"is the same page as {same}"))
                continue
            first[address] = first[page.article.digest] = page.name
            count += 1
            if page.origin:
                origins[address] = page.origin
            heading = self._title_of(page, address, site_names)
            found[page.name] = chunk_sections(page.article.sections, page=address, title=heading)
        chunks = [chunk for name in sorted(found, key=self._place) for chunk in found[name]]
        if not chunks:
            lines = (f"  {skipped.file} {skipped.reason}" for skipped in self.skipped[:20])
            raise TreeError("\n".join([f"{self.url} has no page that can be read.", *lines, *notes]))
        linked = [_linked(page, addresses[page.name], found[page.name]) for page in self.read if page.name in found]
        kept = [known[0].page for known, _ in self.kept.values()]
        dead = faults(linked, kept, self.url, self.exists)
        title = next(iter(site_names), None)
        return Book(self.url, count, chunks, self.skipped, list(notes), self._language(), origins, title, faults=dead)

    def _title_of(self, page: Page, address: str, site_names: Collection[str]) -> str:
        """Return what a page is called; without a heading, the first one of the site as the site is, before its motto."""
        full_title, heading, name = page.article.full_title, page.article.heading, page.article.site_name
        if heading:
            return _without_names(heading, site_names) if heading == full_title else heading
        if name and address == self.url and name in _parts_of_title(full_title):
            return name
        own = _without_names(full_title, site_names)
        return (_TITLE_SEPARATOR.split(own)[0] if own == full_title else own) or _last_part(address)

    def _said(self) -> list[Mapping[str, str]]:
        """Return what each page says of itself and its site, those that have not changed included."""
        return [*(page.article.said for page in self.read), *(origin for _, origin in self.kept.values())]

    def _site_names(self) -> list[str]:
        """Return what the site calls itself, first what most pages do: by its own word, or as what many of their titles share."""
        said = self._said()
        titles = [page.get("title", "") for page in said]
        parts = Counter(part for title in titles for part in _parts_of_title(title) if part)
        # A colon or brackets also stand in titles of a few pages that have a subject in common.
        beside = Counter(part for title in titles for part in _beside(title))
        common = [
            part
            for part, count in parts.most_common()
            if count > 1 and count > len(said) * (1 / 3 if count > beside[part] else 2 / 3)
        ]
        names = Counter(page["site"] for page in said if "site" in page)
        return list(dict.fromkeys([*(name for name, _ in names.most_common()), *common]))

    def _language(self) -> str | None:
        """Return the language that most pages say they are in."""
        languages = Counter(page["language"] for page in self._said() if "language" in page)
        return languages.most_common(1)[0][0].replace("_", "-") if languages else None

    def _place(self, name: str) -> int:
        return self.order.get(name, len(self.order))


def _linked(page: Page, address: str, chunks: Sequence[Chunk]) -> Linked:
    article = page.article
    places = frozenset({address, page.address})
    sources = [chunk.source for chunk in chunks]
    return Linked(page.name, address, places, article.anchors, article.repeated, article.references, sources)


def read_site(folder: Path, url: str, *, exclude: Sequence[str] = (), call: Call = at_once) -> Book:
    """Read every page of a site that a generator has built into this folder.

    `url` is the address of the folder's root; a page that names an address below it as its canonical one has that. Files that
    match a pattern of `exclude` are left out. `call` calls what reads a page. Raises TreeError if no page can be read.
    """
    root = book_url(url)
    check_folder(folder)
    pages = Pages(root, exists=lambda address: _is_in(folder, address.partition(":")[2], root.partition(":")[2]))
    listed = _listed(folder, pages.url)
    for file in sorted(files_in(folder, exclude, SUFFIXES, pages.skipped, _NO_FOLDERS), key=_index_first):
        try:
            article = call(_read_file, folder / file)
        except (_UnreadableError, TooLongError) as error:
            pages.skipped.append(Skipped(file, str(error)))
            continue
        pages.add(file, _address_of(file, pages.url, listed), article)
    return pages.book()


def _is_in(folder: Path, address: str, root: str) -> bool:
    """Whether the folder has a file for an address that begins with the root's; nothing outside of it is looked at."""
    path = unquote(address.partition("?")[0].removeprefix(root)).lstrip("/")
    try:
        top = folder.resolve()
        return any(_has(top, Path(os.path.normpath(f"{top / path}{suffix}"))) for suffix in ("", *SUFFIXES))
    except (OSError, RuntimeError, ValueError):  # A name can be too long, have a NUL, or be a link to itself.
        return False


def _has(top: Path, file: Path) -> bool:
    # First by its name alone, since resolving a path looks at each of its folders.
    return file.is_relative_to(top) and file.resolve().is_relative_to(top) and file.exists()


def is_site(folder: Path) -> bool:
    """Whether the folder is a built site: it has a page for its root."""
    return any((folder / f"index{suffix}").is_file() for suffix in SUFFIXES)


def _index_first(file: str) -> tuple[str, bool, str]:
    folder, _, name = file.rpartition("/")
    return folder, not name.startswith("index."), name


class _UnreadableError(Exception):
    """The page cannot be read; the message says why."""


def _read_file(path: Path) -> Article:
    try:
        if not path.is_file() and path.exists():
            raise _UnreadableError("is not a file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _UnreadableError(f"is larger than {MAX_FILE_BYTES / 1_000_000:.0f} MB")
        return article_of(path.read_bytes())
    except OSError as error:
        raise _UnreadableError(f"cannot be read: {error.strerror}") from None
    except RecursionError:
        raise _UnreadableError("is nested too deeply") from None


def article_of(content: bytes, charset: str | None = None) -> Article:
    """Return what a page says; `charset` is what its server calls its encoding. Raises RecursionError."""
    return read_article(decoded(content, charset))


def decoded(content: bytes, charset: str | None = None) -> str:
    """Return the text of a page as browsers decode it: by its byte order mark, its server, or what it says of itself."""
    for mark, marked in _MARKS.items():
        if content.startswith(mark):
            return content[len(mark) :].decode(marked, "replace")
    for first, unmarked in _UNMARKED.items():
        if content.startswith(first):
            return content.decode(unmarked, "replace")
    for name in (charset, _said_encoding(content[:_PRESCAN_BYTES])):
        if (encoding := _encoding(name or "")) is not None:
            return content.decode(encoding, "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _said_encoding(beginning: bytes) -> str | None:
    """Return the encoding that a page says it is in, if anything but a comment, a script or a description does."""
    said = _XML_ENCODING.search(beginning)
    if said is None:
        for tag in _META.findall(_UNSAID.sub(b"", beginning)):
            said = _CHARSET.search(tag if b"http-equiv" in tag.lower() else _CONTENT.sub(b"", tag))
            if said:
                break
    return said[1].decode("ascii", "replace") if said else None


def _encoding(name: str) -> str | None:
    name = name.strip().strip("\"'").lower()
    # Python has other names for some that browsers know.
    for alias in (
        name,
        re.sub("^(?:x-)+|-[ei]$", "", name),
        re.sub("^(?:windows|dos|cp)-", "cp", name),
        name.rpartition("1-1-")[2],
    ):
        try:
            known = codecs.lookup(alias).name
            b" ".decode(known)
        except (LookupError, ValueError):  # Some codecs are none of text.
            continue
        return _WIDER.get(known, known)
    return None


def _no_page(path: str, article: Article) -> str | None:
    """Return why what lies at this path below the site's root is no page of the book."""
    folders = [unquote(part).lower() for part in urlsplit(path).path.split("/") if part]
    stem = _SUFFIX.sub("", folders.pop()) if folders else ""
    if stem == "index" and folders:
        stem = folders.pop()
    if _NO_PAGES.fullmatch(stem) or (stem in _NO_PAGES_AT_ROOT and not folders):
        return "is no page of the book, by its name"
    if not _NO_FOLDERS.isdisjoint(folders):
        return "is no page of the book, by its folder"
    if article.refusal or not article.sections:
        return article.refusal or "says nothing"
    size = sum(len(text) for section in article.sections for _, text in section.blocks)
    if size <= _SHORT_CHARS and (stem in _NO_PAGES_IF_SHORT or folders[:1] == ["search"]):
        return "is no page of the book, by its name"
    return None


def _address_of(file: str, url: str, listed: frozenset[str]) -> str:
    """Return where a file of the site lies: as its sitemap has it, or else by its path."""
    stem, _, _ = file.rpartition(".")
    is_index = stem == "index" or stem.endswith("/index")
    folder = stem.removesuffix("index") if is_index else ""
    plain = folder if is_index else file
    others = (folder.rstrip("/"), file) if is_index else (stem, f"{stem}/")
    paths = [url + quoted(path) for path in (plain, *others)]
    return next((path for path in paths if path in listed), paths[0])


def _listed(folder: Path, url: str) -> frozenset[str]:
    """Return the addresses below this one that the site's own sitemap lists, whatever host it was built for."""
    found = set[str]()
    base = urlsplit(url).path
    for file in sorted(folder.glob("sitemap*.xml"))[:50]:
        if file.is_symlink() or file.stat().st_size > 10 * MAX_FILE_BYTES:
            continue
        for address in locations(file.read_bytes())[0]:
            path = urlsplit(address).path or "/"
            if path.startswith(base):
                found.add(url + quoted(unquote(path[len(base) :])))
    return frozenset(found)


def locations(content: bytes) -> tuple[list[str], list[str]]:
    """Return the addresses of the pages that a sitemap lists, and those of further sitemaps; of a broken one, what comes first."""
    pages: list[str] = []
    sitemaps: list[str] = []
    try:
        for _, element in ET.iterparse(BytesIO(content)):  # noqa: S314  # As above.
            namespace, _, tag = element.tag.rpartition("}")
            location = element.find(f"{namespace}}}loc" if namespace else "loc")
            if location is not None and (address := (location.text or "").strip()):
                {"url": pages, "sitemap": sitemaps}.get(tag, []).append(address)
            if tag in {"url", "sitemap"}:
                element.clear()
    except ET.ParseError:
        pass
    if not pages and not sitemaps and not content.lstrip().startswith(b"<"):
        lines = content.decode("utf-8-sig", "replace").split()
        pages = [line for line in lines if line.startswith(("http://", "https://"))]
    return pages, sitemaps


def _addresses(pages: Sequence[Page], url: str, others: frozenset[str]) -> Mapping[str, str]:
    """Return the address of each page by its name: its canonical one, unless others claim the same."""
    canonical = {page.name: _canonical(page, url) for page in pages}
    claims = Counter(address for address in canonical.values() if address)
    natural = {*others, *(page.address for page in pages)}
    addresses = {}
    for page in pages:
        address = canonical[page.name]
        is_another = address in natural and address != page.address
        addresses[page.name] = address if address and claims[address] == 1 and not is_another else page.address
    return addresses


def _canonical(page: Page, url: str) -> str | None:
    if not page.article.canonical:
        return None
    try:
        parts = urlsplit(urljoin(page.address, page.article.canonical))
    except ValueError:
        return None
    # Whether it says http or https, or the port that goes without saying, it is the same page.
    host = parts.netloc.lower().removesuffix({"http": ":80", "https": ":443"}.get(parts.scheme, ":"))
    address = f"{url.partition(':')[0]}://{host}{quoted(parts.path or '/')}"
    return address if address.startswith(url) or f"{address}/" == url else None


def _without_names(title: str, site_names: Collection[str]) -> str:
    """Return a page's title without the names of its site, which stand before or after it."""
    parts = _TITLE_SEPARATOR.split(title)
    while len(parts) > 1 and parts[-1] in site_names:
        del parts[-2:]
    while len(parts) > 1 and parts[0] in site_names:
        del parts[:2]
    own = "".join(parts)
    before, colon, rest = own.partition(": ")
    behind = _NAME_BEHIND.search(own)
    if colon and before.rstrip() in site_names:
        return rest.strip()
    return own[: behind.start()] if behind and behind[1] in site_names else own


def _parts_of_title(title: str) -> set[str]:
    """Return what in a title may be the name of the site."""
    return {*_TITLE_SEPARATOR.split(title)[::2], *_beside(title)}


def _beside(title: str) -> set[str]:
    """Return what stands before a title and a colon, or in brackets behind it: `My Book: Arms`, `Arms (My Book)`."""
    behind = _NAME_BEHIND.search(title)
    before, colon, _ = title.partition(": ")
    return {*([behind[1]] if behind else []), *([before.rstrip()] if colon else [])}


def _last_part(address: str) -> str:
    parts = urlsplit(address)
    return unquote(parts.path.rstrip("/").rpartition("/")[2]).partition(".")[0] or parts.netloc
