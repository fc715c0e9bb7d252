"""From a running site to the book's chunks: by its sitemap, obeying its robots.txt, and asking only for what has changed."""

import asyncio
import re
import time
import tomllib
import zlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import httpx2
from protego import Protego

from app.book.apart import Call, TooLongError, at_once
from app.book.article import READER, Article, is_noindex
from app.book.chunks import Chunk
from app.book.site import Pages, article_of, locations
from app.book.tree import MAX_FILE_BYTES, Book, Skipped, TreeError, book_url, counted, is_excluded, quoted

ROBOT = "book-chat"
"""The name that robots.txt can give rules for."""

_PAGES = 20_000
_SITEMAPS = 200
_SITEMAP_BYTES = 50_000_000
_ROBOTS_BYTES = 500_000
_SECONDS = 3_600.0
_AT_ONCE = 4
_ATTEMPTS = 4
_MAX_WAIT_SECONDS = 60.0
_MAX_DELAY_SECONDS = 30.0
_REDIRECTS = 5
_TIMEOUT = httpx2.Timeout(30.0, connect=10.0)
_ANSWER_SECONDS = 120.0
"""How long one answer may take, for servers that never stop sending."""
_FAILED_SHARE = 0.1
"""If more of the pages than this fail, the site is not well, and its book stays as it was."""
_SAMPLE = 50
"""How many addresses a check asks for."""
_SITEMAP_NAMES = ("sitemap.xml", "sitemap-index.xml", "sitemap_index.xml", "sitemap.xml.gz", "sitemap.txt")
_HTML = frozenset({"text/html", "application/xhtml+xml", ""})
_NOT_PAGES = re.compile(
    r"\.(?:png|jpe?g|gif|svg|webp|avif|ico|css|js|mjs|json|xml|txt|md|pdf|zip|gz|tgz|epub|mp[34]|webm|woff2?|ipynb|py)$",
    re.IGNORECASE,
)
_REDIRECTING = frozenset({301, 302, 303, 307, 308})
_NOT_THERE = frozenset({"answered 404", "answered 410"})
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})

type OnFetched = Callable[[int, int], None]
"""Is told how many of how many pages have been asked for."""


@dataclass(frozen=True)
class Known:
    """What the database has of a page."""

    origin: Mapping[str, str]
    """What was noted when it was read: where from, and what tells whether it has changed since."""
    chunks: list[Chunk]


class _GoneError(Exception):
    """There is no such page for us; the message says why, in words that follow its address."""


class _FailedError(Exception):
    """The page could not be had this time; the message says why, in words that follow its address."""


@dataclass(frozen=True)
class _Response:
    status: int
    headers: httpx2.Headers
    content: bytes

    @property
    def is_success(self) -> bool:
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES


@dataclass(frozen=True)
class _Answer:
    url: str
    """Where the answer came from in the end."""
    is_unchanged: bool
    content: bytes
    charset: str | None
    origin: dict[str, str]


@dataclass
class _State:
    """What is still to be asked for."""

    addresses: deque[str]
    seen: set[str]
    done: int = 0


class Crawler:
    """Reads one site."""

    def __init__(  # noqa: PLR0913  # What is read, and how.
        self,
        site: str,
        url: str | None = None,
        *,
        known: Mapping[str, Known] | None = None,
        exclude: Sequence[str] = (),
        call: Call = at_once,
        on_fetched: OnFetched = lambda _done, _of: None,
        pause: float = 1.0,
    ) -> None:
        self.site = book_url(site)
        """The address below which its pages are asked for."""
        self.url = book_url(url) if url else self.site
        """The address below which they are in the book."""
        self._known = known or {}
        self._exclude = exclude
        self._call = call
        self._on_fetched = on_fetched
        self._gone = set[str]()
        """Addresses of the book at which there is no page."""
        self._pages = Pages(self.url, exists=lambda address: address.partition("?")[0] not in self._gone)
        self._robots = Protego.parse("")
        self._delay = 0.0
        self._turn = asyncio.Lock()
        self._client = httpx2.AsyncClient(
            headers={"User-Agent": user_agent(), "Accept": "text/html,application/xhtml+xml,*/*;q=0.5"},
            timeout=_TIMEOUT,
        )
        self._pause = pause
        self._notes: list[str] = []
        self._failed: list[Skipped] = []
        self._follows_links = False
        self._deadline = time.monotonic() + _SECONDS

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def read(self) -> Book:
        """Read every page that the sitemap lists, or that links lead to if there is none; raises TreeError."""
        await self._read_robots()
        state = _State(deque(), set())
        addresses = await self._listed()
        if not addresses:
            self._follows_links = True
            addresses = [self.site, *self._known]  # A page that has not changed comes without its links.
            self._notes.append("No sitemap lists the site's pages, so links were followed from its first page.")
        self._enqueue(state, addresses)
        await self._fetch_all(state)
        return self._book(state)

    async def _read_robots(self) -> None:
        address = urljoin(self.site, "/robots.txt")
        try:
            response = await self._ask(address, _ROBOTS_BYTES)
        except (_FailedError, _GoneError) as error:
            raise TreeError(f"{address} {error}, so nothing may be read.") from error
        target = response.headers.get("location")
        if target and urlsplit(urljoin(address, target)).netloc != urlsplit(address).netloc:
            place = urljoin(urljoin(address, target), urlsplit(self.site).path)
            raise TreeError(f"{self.site} has moved to {place}, which is the address to give.")
        if response.is_success:
            self._robots = Protego.parse(response.content.decode("utf-8-sig", "replace"))
        delay = self._robots.crawl_delay(ROBOT)
        if delay:
            self._delay = min(float(delay), _MAX_DELAY_SECONDS)
            self._notes.append(f"robots.txt asks for {delay:g} seconds between pages.")

    def _may_fetch(self, address: str) -> bool:
        return bool(self._robots.can_fetch(address, ROBOT))

    async def _listed(self) -> list[str]:
        """Return the addresses that the site's sitemaps list."""
        named = [urljoin(self.site, sitemap) for sitemap in self._robots.sitemaps]
        guesses = [
            urljoin(base, name)
            for base in dict.fromkeys((self.site, urljoin(self.site, "/")))
            for name in _SITEMAP_NAMES
        ]
        pages: dict[str, None] = {}
        seen = set[str]()
        pending = deque(named)
        while pending or (guesses and not pages):
            address = pending.popleft() if pending else guesses.pop(0)
            is_ours = urlsplit(address).netloc.lower() == urlsplit(self.site).netloc
            if address in seen or not is_ours or len(seen) >= _SITEMAPS + len(_SITEMAP_NAMES) * 2:
                continue
            seen.add(address)
            found, further = locations(await self._sitemap(address, is_named=address in named))
            pages.update(dict.fromkeys(found))
            pending.extend(urljoin(address, sitemap) for sitemap in further)
            if len(pages) > 2 * _PAGES:
                break
        return self._ours(pages)

    async def _sitemap(self, address: str, *, is_named: bool) -> bytes:
        if not self._may_fetch(address):
            self._notes.append(f"robots.txt forbids {address}.")
            return b""
        try:
            response = await self._ask(address, _SITEMAP_BYTES)
            content = response.content
            return _unzipped(content) if content.startswith(b"\x1f\x8b") else content
        except (_GoneError, _FailedError) as error:
            if is_named:
                self._notes.append(f"The sitemap {address} {error}.")
            return b""

    def _ours(self, addresses: Mapping[str, None]) -> list[str]:
        """Return what lies below the site's address, which a sitemap can also give by the book's; tells of the others."""
        ours: list[str] = []
        others: Counter[str] = Counter()
        for address in addresses:
            own = self._own(address)
            if own is not None:
                ours.append(own)
            else:
                parts = urlsplit(address)
                others[f"{parts.scheme}://{parts.netloc}"] += 1
        for other, count in others.most_common(3):
            self._notes.append(f"The sitemap lists {counted(count, 'page')} of {other} that are not below {self.site}.")
        return ours

    def _own(self, address: str) -> str | None:
        """Return the address as one below the site's own; None if it lies elsewhere."""
        try:
            parts = urlsplit(urldefrag(address.strip()).url)
            path = quoted(unquote(parts.path or "/", errors="surrogateescape") if "%" not in parts.path else parts.path)
        except (ValueError, UnicodeError):
            return None
        query = f"?{parts.query}" if parts.query else ""
        normal = f"//{parts.netloc.lower()}{path}"
        for base in (self.site, self.url):
            below = base.partition(":")[2]
            if parts.scheme in {"http", "https"} and (normal.startswith(below) or f"{normal}/" == below):
                return f"{self.site}{normal[len(below) :]}{query}"
        return None

    def _enqueue(self, state: _State, addresses: Sequence[str]) -> None:
        for address in addresses:
            if address in state.seen:
                continue
            if len(state.seen) >= _PAGES:
                self._note_once(f"The site has more than {_PAGES:,} pages, and the others were left out.")
                return
            state.seen.add(address)
            path = unquote(address.removeprefix(self.site))
            if is_excluded(path.rstrip("/"), self._exclude) or _NOT_PAGES.search(urlsplit(address).path):
                continue
            if not self._may_fetch(address):
                self._pages.skipped.append(Skipped(address, "is forbidden by robots.txt"))
            else:
                state.addresses.append(address)
                self._pages.order[address] = len(self._pages.order)

    def _note_once(self, note: str) -> None:
        if note not in self._notes:
            self._notes.append(note)

    async def _fetch_all(self, state: _State) -> None:
        running: set[asyncio.Task[None]] = set()
        try:
            while state.addresses or running:
                while state.addresses and len(running) < (1 if self._delay else _AT_ONCE):
                    running.add(asyncio.create_task(self._fetch(state, state.addresses.popleft())))
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _fetch(self, state: _State, address: str) -> None:
        known = self._known.get(address)
        try:
            self._check_deadline()
            answer = await self._page(address, known)
            if answer.is_unchanged and known:
                self._pages.keep(address, known.chunks, dict(known.origin))
            else:
                article = await asyncio.to_thread(self._call, article_of, answer.content, answer.charset)
                self._take(state, address, answer, article)
        except (_GoneError, TooLongError) as error:
            self._pages.skipped.append(Skipped(address, str(error)))
            if str(error) in _NOT_THERE:
                self._gone.add(self.url + address.removeprefix(self.site))
        except RecursionError:
            self._pages.skipped.append(Skipped(address, "is nested too deeply"))
        except _FailedError as error:
            self._failed.append(Skipped(address, str(error) + (", and stays as it was" if known else "")))
            if known:
                self._pages.keep(address, known.chunks, dict(known.origin))
        state.done += 1
        self._on_fetched(state.done, state.done + len(state.addresses))

    def _check_deadline(self) -> None:
        if time.monotonic() > self._deadline:
            raise _FailedError(f"was not asked for within {_SECONDS / 60:.0f} minutes")

    def _take(self, state: _State, address: str, answer: _Answer, article: Article) -> None:
        place = self.url + answer.url.removeprefix(self.site)
        origin = {**answer.origin, "from": address, "digest": article.digest, "reader": str(READER)}
        if article.language:
            origin["language"] = article.language
        self._pages.add(address, place, article, origin)
        if self._follows_links:
            links = (self._own(urljoin(answer.url, link)) for link in article.links if _is_sane(link))
            self._enqueue(state, sorted(link.partition("?")[0] for link in links if link))

    async def _page(self, address: str, known: Known | None) -> _Answer:
        """Return the page, following redirects within the site."""
        headers = _conditions(known)
        url = address
        for _ in range(_REDIRECTS + 1):
            response = await self._ask(url, MAX_FILE_BYTES, headers)
            target = response.headers.get("location")
            if response.status in _REDIRECTING and target:
                url, headers = self._redirected(urljoin(url, target)), {}
            elif response.status == HTTPStatus.NOT_MODIFIED and headers:
                return _Answer(url, is_unchanged=True, content=b"", charset=None, origin={})
            else:
                return _checked(url, response)
        raise _GoneError("redirects too often")

    def _redirected(self, target: str) -> str:
        own = self._own(target)
        if own is None:
            raise _GoneError(f"redirects to {urldefrag(target).url}")
        if not self._may_fetch(own):
            raise _GoneError(f"redirects to {own}, which robots.txt forbids")
        return own

    async def _ask(self, url: str, limit: int, headers: Mapping[str, str] | None = None) -> _Response:
        """Ask for an address until there is an answer that is no passing failure; raises _FailedError and _GoneError."""
        reason = ""
        for attempt in range(_ATTEMPTS):
            await self._wait_for_turn()
            wait = None
            try:
                async with (
                    asyncio.timeout(_ANSWER_SECONDS),
                    self._client.stream("GET", url, headers=dict(headers or {})) as response,
                ):
                    if response.status_code not in _TRANSIENT:
                        content = await _content(response, limit) if response.is_success else b""
                        return _Response(response.status_code, response.headers, content)
                    reason, wait = f"answered {response.status_code}", _retry_after(response)
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
                raise _GoneError(f"is no address: {error}") from error
            except (httpx2.HTTPError, TimeoutError) as error:
                reason = f"cannot be reached ({_named(error)})"
            if attempt + 1 < _ATTEMPTS:
                await asyncio.sleep(min(self._pause * 2.0**attempt if wait is None else wait, _MAX_WAIT_SECONDS))
        raise _FailedError(reason)

    async def _wait_for_turn(self) -> None:
        """Keep the distance between requests that robots.txt asks for."""
        if self._delay:
            async with self._turn:
                await asyncio.sleep(self._delay)

    def _book(self, state: _State) -> Book:
        if len(self._failed) > max(1, _FAILED_SHARE * len(state.seen)):
            first = self._failed[0]
            raise TreeError(
                f"{counted(len(self._failed), 'page')} of {len(state.seen):,} could not be read, so the book is as it was: "
                f"{first.file} {first.reason}"
            )
        self._pages.skipped += self._failed
        return self._pages.book(self._notes)


@dataclass(frozen=True)
class Check:
    """What became of asking a running site for the addresses of its book."""

    asked: int
    dead: list[Skipped]


async def check(book: Book) -> Check:
    """Ask the running site for a sample of the addresses that readers would be sent to, evenly spread over the book."""
    chunks = book.chunks[:: max(1, len(book.chunks) // _SAMPLE)][:_SAMPLE]
    by_page: dict[str, set[str]] = {}
    for chunk in chunks:
        by_page.setdefault(chunk.page, set()).add(chunk.source)
    places = asyncio.Semaphore(_AT_ONCE)
    async with httpx2.AsyncClient(
        headers={"User-Agent": user_agent()}, timeout=_TIMEOUT, follow_redirects=True
    ) as client:
        asked = [_dead_of(client, places, page, sources) for page, sources in by_page.items()]
        dead = [found for of_page in await asyncio.gather(*asked) for found in of_page]
    return Check(sum(map(len, by_page.values())), dead)


async def _dead_of(
    client: httpx2.AsyncClient, places: asyncio.Semaphore, page: str, sources: set[str]
) -> list[Skipped]:
    async with places:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS), client.stream("GET", page) as response:
                if not response.is_success:
                    return [Skipped(page, f"answered {response.status_code}")]
                article = article_of(await _content(response, MAX_FILE_BYTES), _charset(response.headers))
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
            return [Skipped(page, f"cannot be reached ({_named(error)})")]
        except (_GoneError, RecursionError) as error:
            return [Skipped(page, str(error))]
    anchors = {unquote(anchor) for anchor in article.anchors}
    return [
        Skipped(source, "has no such anchor")
        for source in sorted(sources)
        if (anchor := unquote(urldefrag(source).fragment)) and anchor not in anchors
    ]


def _checked(url: str, response: _Response) -> _Answer:
    """Return the answer if it is a page; raises _GoneError."""
    if not response.is_success:
        raise _GoneError(f"answered {response.status}")
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _HTML:
        raise _GoneError(f"is {kind}")
    if is_noindex(response.headers.get("x-robots-tag", "")):
        raise _GoneError("is not to be indexed (X-Robots-Tag)")
    validators = {"etag": response.headers.get("etag"), "modified": response.headers.get("last-modified")}
    origin = {name: value for name, value in validators.items() if value}
    return _Answer(url, is_unchanged=False, content=response.content, charset=_charset(response.headers), origin=origin)


def user_agent() -> str:
    """Return what a site's log shows."""
    try:
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
        return f"{ROBOT}/{project['version']}"
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return ROBOT


def _conditions(known: Known | None) -> dict[str, str]:
    """Return the headers that ask for the page only if it has changed since it was read."""
    if known is None or known.origin.get("reader") != str(READER):
        return {}
    headers = {"If-None-Match": known.origin.get("etag"), "If-Modified-Since": known.origin.get("modified")}
    return {name: value for name, value in headers.items() if value}


async def _content(response: httpx2.Response, limit: int) -> bytes:
    """Return the body, unzipped; raises _GoneError if it is longer than the limit."""
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        size += len(part)
        if size > limit:
            raise _GoneError(f"is larger than {limit / 1_000_000:g} MB")
        parts.append(part)
    return b"".join(parts)


def _unzipped(content: bytes) -> bytes:
    try:
        decompressor = zlib.decompressobj(16 + zlib.MAX_WBITS)
        return decompressor.decompress(content, _SITEMAP_BYTES)
    except zlib.error as error:
        raise _GoneError(f"is no gzip file: {error}") from error


def _charset(headers: httpx2.Headers) -> str | None:
    found = re.search(r"charset\s*=\s*[\"']?([\w.:-]+)", headers.get("content-type", ""), re.IGNORECASE)
    return found[1] if found else None


def _retry_after(response: httpx2.Response) -> float | None:
    value = response.headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _named(error: Exception) -> str:
    return str(error) or type(error).__name__


def _is_sane(link: str) -> bool:
    try:
        urlsplit(link)
    except ValueError:
        return False
    return len(link) < 2_000  # noqa: PLR2004  # No page has a longer address.
