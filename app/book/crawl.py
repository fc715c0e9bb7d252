"""From a running site to the book's chunks: by its sitemap, obeying its robots.txt, and asking only for what has changed."""

import asyncio
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import httpx2
from protego import Protego

from app.book.addresses import Addresses
from app.book.apart import Call, TooLongError, at_once
from app.book.article import READER, Article, is_noindex
from app.book.chunks import Chunk
from app.book.client import (
    ANSWER_SECONDS,
    REDIRECTS,
    ROBOT,
    TIMEOUT,
    Client,
    FailedError,
    GoneError,
    Response,
    charset_of,
    content_of,
    joined,
    named,
    target_of,
    user_agent,
)
from app.book.shelf import comparable
from app.book.site import Pages, article_of
from app.book.sitemaps import PAGES, Sitemaps
from app.book.tree import MAX_FILE_BYTES, Book, Skipped, TreeError, book_url, counted, is_excluded
from app.book.unlisted import Unlisted

_ROBOTS_BYTES = 500_000
_SECONDS = 3_600.0
_AT_ONCE = 4
_MAX_DELAY_SECONDS = 30.0
_FAILED_SHARE = 0.1
"""If more of the pages than this fail, the site is not well, and its book stays as it was."""
_REDIRECTS_SHARE = 0.1
_MANY_REDIRECTS = 3
"""If more of the addresses than this share, and at least as many, redirect alike, that is no matter of single pages."""
_LINK_CHARS = 2_000
"""No page has a longer address."""
_SAMPLE = 50
"""How many addresses a check asks for."""
_HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})
_PAGE_TYPES = _HTML_TYPES | {""}
_FILES = "png|jpe?g|gif|svg|webp|avif|ico|pdf|zip|gz|tgz|epub|mp[34]|webm|woff2?"
_NOT_PAGES = re.compile(rf"\.(?:{_FILES}|css|js|mjs|json|xml|txt|md|ipynb|py)$", re.IGNORECASE)
_MEDIA = re.compile(
    rf"\.(?:{_FILES}|bmp|tiff?|heic|ttf|otf|eot|bz2|xz|zst|7z|rar|tar|ogg|oga|wav|flac|m4a|aac|opus|m4v|mov|avi|mkv|ogv)$",
    re.IGNORECASE,
)
"""What is large and never a page. Of other names that end like a file's, a sitemap knows better: /wiki/Node.js can be a page."""
_NOT_THERE = frozenset({"answered 404", "answered 410"})

type OnFetched = Callable[[int, int], None]
"""Is told how many of how many pages have been asked for."""


@dataclass(frozen=True)
class Known:
    """What the database has of a page."""

    origin: Mapping[str, str]
    """What was noted when it was read: where from, and what tells whether it has changed since."""
    chunks: list[Chunk]


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
        self._addresses = Addresses(self.site, self.url)
        self._known = known or {}
        self._exclude = exclude
        self._call = call
        self._on_fetched = on_fetched
        self._gone = set[str]()
        """Addresses of the book at which there is no page."""
        self._pages = Pages(self.url, exists=lambda address: address.partition("?")[0] not in self._gone)
        self._robots = Protego.parse("")
        self._client = Client(pause)
        self._notes: list[str] = []
        self._failed: list[Skipped] = []
        self._moved = Counter[str]()
        """How many addresses redirect to the same one elsewhere, by where the site would be."""
        self._ends: dict[str, str] = {}
        """Where redirects lead in the end, without the query, which can name the page that was asked for."""
        self._follows_links = False
        self._unlisted: Unlisted | None = None
        """What the sitemap does not list, if it lists pages."""
        self._deadline = time.monotonic() + _SECONDS

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def read(self) -> Book:
        """Read every page that the sitemap lists, or that links lead to if there is none; raises TreeError."""
        await self._read_robots()
        state = _State(deque(), set())
        self._enqueue(state, await self._first(), are_pages=True)
        await self._fetch_all(state)
        return self._book(state)

    async def _first(self) -> list[str]:
        """Return the addresses to begin with: all that the sitemap lists, or those from which links are followed."""
        listed = await self._listed()
        if any(comparable(address) != comparable(self.site) for address in listed):
            self._unlisted = Unlisted(listed, self._page_of)
            return listed
        self._follows_links = True
        self._notes.append(
            "The sitemap lists the first page alone, so links were followed from it."
            if listed
            else "No sitemap lists the site's pages, so links were followed from its first page."
        )
        return [*(listed or [self.site]), *self._known]  # A page that has not changed comes without its links.

    async def _read_robots(self) -> None:
        content = await self._robots_content()
        self._robots = Protego.parse(content.decode("utf-8-sig", "replace"))
        delay = self._robots.crawl_delay(ROBOT)
        if delay:
            self._client.delay = min(float(delay), _MAX_DELAY_SECONDS)
            self._notes.append(f"robots.txt asks for {delay:g} seconds between pages.")

    async def _robots_content(self) -> bytes:
        """Return what robots.txt says, which is nothing if there is none; raises TreeError."""
        address = urljoin(self.site, "/robots.txt")
        for redirects in range(REDIRECTS + 1):
            try:
                response = await self._client.ask(address, _ROBOTS_BYTES)
            except (FailedError, GoneError) as error:
                raise TreeError(f"{address} {error}, so nothing may be read.") from error
            target = target_of(address, response)
            if target is None:
                # What is at another address can also be a page, such as the one to sign in at.
                is_page = redirects and _kind(response) in _HTML_TYPES
                return b"" if is_page or not response.is_success else response.content
            address = self._robots_after(address, target)
        return b""  # RFC 9309: after five redirects, there is none.

    def _robots_after(self, address: str, target: str) -> str:
        """Return where on its host the site redirects its robots.txt to; raises TreeError if the site has moved."""
        here = self._addresses.here(target)
        place = self._addresses.moved_to(address, target) if here else urljoin(target, urlsplit(self.site).path)
        if here is None or place:
            raise TreeError(_has_moved(self.site, place))
        return here

    def _may_fetch(self, address: str) -> bool:
        return bool(self._robots.can_fetch(address, ROBOT))

    async def _listed(self) -> list[str]:
        """Return the addresses of the site that its sitemaps list."""
        sitemaps = Sitemaps(self._addresses, self._client, self._may_fetch)
        addresses = await sitemaps.pages(list(self._robots.sitemaps))
        self._notes += sitemaps.notes
        return addresses

    def _enqueue(self, state: _State, addresses: Iterable[str], *, are_pages: bool) -> None:
        """Have addresses asked for; `are_pages` if something better than a link says that they are pages."""
        for address in addresses:
            if address in state.seen:
                continue
            if len(state.seen) >= PAGES:
                self._note_once(f"The site has more than {PAGES:,} pages, and the others were left out.")
                return
            state.seen.add(address)
            path = urlsplit(address).path
            if self._is_excluded(address) or (not are_pages and _NOT_PAGES.search(path)):
                continue
            if are_pages and _MEDIA.search(path):
                self._pages.skipped.append(Skipped(address, "is no page, by its name"))
            elif not self._may_fetch(address):
                self._pages.skipped.append(Skipped(address, "is forbidden by robots.txt"))
            else:
                state.addresses.append(address)
                self._pages.order[address] = len(self._pages.order)

    def _is_excluded(self, address: str) -> bool:
        return is_excluded(unquote(address.removeprefix(self.site)).rstrip("/"), self._exclude)

    def _page_of(self, address: str) -> str | None:
        """Return the address without its query if it may be a page of the site; None if links to it are not followed."""
        own = self._addresses.own(address)
        page = own and own.partition("?")[0]
        if not page or self._is_excluded(page) or _NOT_PAGES.search(page) or not self._may_fetch(page):
            return None
        return page

    def _note_once(self, note: str) -> None:
        if note not in self._notes:
            self._notes.append(note)

    async def _fetch_all(self, state: _State) -> None:
        running: set[asyncio.Task[None]] = set()
        try:
            while state.addresses or running:
                while state.addresses and len(running) < (1 if self._client.delay else _AT_ONCE):
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
        except (GoneError, TooLongError) as error:
            self._pages.skipped.append(Skipped(address, str(error)))
            if str(error) in _NOT_THERE:
                self._gone.add(self.url + address.removeprefix(self.site))
        except RecursionError:
            self._pages.skipped.append(Skipped(address, "is nested too deeply"))
        except FailedError as error:
            self._failed.append(Skipped(address, str(error) + (", and stays as it was" if known else "")))
            if known:
                self._pages.keep(address, known.chunks, dict(known.origin))
        state.done += 1
        self._on_fetched(state.done, state.done + len(state.addresses))

    def _check_deadline(self) -> None:
        if time.monotonic() > self._deadline:
            raise FailedError(f"was not asked for within {_SECONDS / 60:.0f} minutes")

    def _take(self, state: _State, address: str, answer: _Answer, article: Article) -> None:
        place = self.url + answer.url.removeprefix(self.site)
        origin = {**answer.origin, "from": address, "digest": article.digest, "reader": str(READER)}
        self._pages.add(address, place, article, origin | article.said)
        links = [link for link in article.links if len(link) < _LINK_CHARS]
        if self._unlisted:
            self._unlisted.add(answer.url, links)
        if self._follows_links:
            targets = (self._addresses.own(joined(answer.url, link) or "") for link in links)
            self._enqueue(state, sorted(target.partition("?")[0] for target in targets if target), are_pages=False)

    async def _page(self, address: str, known: Known | None) -> _Answer:
        """Return the page, following redirects within the site."""
        headers = _conditions(known)
        url = address
        for _ in range(REDIRECTS + 1):
            response = await self._client.ask(url, MAX_FILE_BYTES, headers)
            target = target_of(url, response)
            if target is not None:
                self._ends[address] = target.partition("?")[0]
                url, headers = self._redirected(url, target), {}
            elif response.status == HTTPStatus.NOT_MODIFIED and headers:
                return _Answer(url, is_unchanged=True, content=b"", charset=None, origin={})
            else:
                return _checked(url, response)
        raise GoneError("redirects too often")

    def _redirected(self, url: str, target: str) -> str:
        """Return the address of the site that another one redirects to; raises GoneError."""
        own = self._addresses.own(target)
        place = self._addresses.moved_to(url, target)
        if place:
            self._moved[place] += 1
        if own is None or place:
            raise GoneError(f"redirects to {target}")
        if not self._may_fetch(own):
            raise GoneError(f"redirects to {own}, which robots.txt forbids")
        return own

    def _book(self, state: _State) -> Book:
        self._check_failed(state)
        self._check_moved(state)
        self._check_ends(state)
        self._pages.skipped += self._failed
        book = self._pages.book(self._notes)
        return replace(book, notes=[*book.notes, *self._unlisted_note(book)])

    def _unlisted_note(self, book: Book) -> list[str]:
        # A page can have another address than the listed one: where that redirects to, or what the page calls its own.
        places = {chunk.page for chunk in book.chunks} | set(self._ends.values())
        read = [own for place in places if (own := self._addresses.own(place))]
        note = self._unlisted.note(read) if self._unlisted else None
        return [note] if note else []

    def _check_failed(self, state: _State) -> None:
        if len(self._failed) > max(1, _FAILED_SHARE * len(state.seen)):
            first = self._failed[0]
            raise TreeError(
                f"{counted(len(self._failed), 'page')} of {len(state.seen):,} could not be read, so the book is as it was: "
                f"{first.file} {first.reason}"
            )

    def _check_moved(self, state: _State) -> None:
        """Raise TreeError if the site is where its pages redirect to with nothing but another scheme or host."""
        for place, count in self._moved.most_common(1):
            if not (self._pages.read or self._pages.kept) or _are_many(count, state.done):
                raise TreeError(_has_moved(self.site, place))

    def _check_ends(self, state: _State) -> None:
        """Raise TreeError if many addresses lead to the same other page, as they do where readers have to sign in first."""
        ends = Counter(end for address, end in self._ends.items() if comparable(end) != comparable(address))
        for end, count in ends.most_common(1):
            if _are_many(count, state.done):
                raise TreeError(
                    f"{counted(count, 'page')} of {state.done:,} redirect to {end}, so the book is as it was. Does the site need a login? "
                    "If the book does not need these pages, leave them out with --exclude."
                )


def _are_many(redirects: int, pages: int) -> bool:
    return redirects >= _MANY_REDIRECTS and redirects > _REDIRECTS_SHARE * pages


def _has_moved(site: str, place: str | None) -> str:
    return f"{site} has moved to {place}, which is the address to give."


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
        headers={"User-Agent": user_agent()}, timeout=TIMEOUT, follow_redirects=True
    ) as client:
        asked = [_dead_of(client, places, page, sources) for page, sources in by_page.items()]
        dead = [found for of_page in await asyncio.gather(*asked) for found in of_page]
    return Check(sum(map(len, by_page.values())), dead)


async def _dead_of(
    client: httpx2.AsyncClient, places: asyncio.Semaphore, page: str, sources: set[str]
) -> list[Skipped]:
    async with places:
        try:
            async with asyncio.timeout(ANSWER_SECONDS), client.stream("GET", page) as response:
                if not response.is_success:
                    return [Skipped(page, f"answered {response.status_code}")]
                article = article_of(await content_of(response, MAX_FILE_BYTES), charset_of(response.headers))
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
            return [Skipped(page, f"cannot be reached ({named(error)})")]
        except (GoneError, RecursionError) as error:
            return [Skipped(page, str(error))]
    anchors = {unquote(anchor) for anchor in article.anchors}
    return [
        Skipped(source, "has no such anchor")
        for source in sorted(sources)
        if (anchor := unquote(urldefrag(source).fragment)) and anchor not in anchors
    ]


def _kind(response: Response) -> str:
    return str(response.headers.get("content-type", "")).partition(";")[0].strip().lower()


def _checked(url: str, response: Response) -> _Answer:
    """Return the answer if it is a page; raises GoneError."""
    if not response.is_success:
        raise GoneError(f"answered {response.status}")
    kind = _kind(response)
    if kind not in _PAGE_TYPES:
        raise GoneError(f"is {kind}")
    if is_noindex(response.headers.get("x-robots-tag", ""), ROBOT):
        raise GoneError("is not to be indexed (X-Robots-Tag)")
    validators = {"etag": response.headers.get("etag"), "modified": response.headers.get("last-modified")}
    origin = {name: value for name, value in validators.items() if value}
    return _Answer(
        url, is_unchanged=False, content=response.content, charset=charset_of(response.headers), origin=origin
    )


def _conditions(known: Known | None) -> dict[str, str]:
    """Return the headers that ask for the page only if it has changed since it was read."""
    if known is None or known.origin.get("reader") != str(READER):
        return {}
    headers = {"If-None-Match": known.origin.get("etag"), "If-Modified-Since": known.origin.get("modified")}
    return {name: value for name, value in headers.items() if value}
