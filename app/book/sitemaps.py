"""What a site's sitemaps list."""

import zlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urljoin, urlsplit

from app.book.addresses import Addresses
from app.book.client import REDIRECTS, Client, FailedError, GoneError, Response, joined, target_of
from app.book.links import printable
from app.book.site import locations
from app.book.tree import counted

PAGES = 20_000
"""How many pages of a site are read."""

_SITEMAPS = 200
_BYTES = 50_000_000
_SHOWN = 3
"""How many of them are named in notes, if they are not read."""
_NAMES = ("sitemap.xml", "sitemap-index.xml", "sitemap_index.xml", "sitemap.xml.gz", "sitemap.txt")


class Sitemaps:
    """Reads the sitemaps of one site."""

    def __init__(self, addresses: Addresses, client: Client, may_fetch: Callable[[str], bool]) -> None:
        self.notes: list[str] = []
        """What the site's owner should know of them, each a sentence."""
        self._unread = 0
        self._addresses = addresses
        self._client = client
        self._may_fetch = may_fetch

    async def pages(self, named: Sequence[str]) -> list[str]:
        """Return the addresses of the site that its sitemaps list: those that robots.txt names, else what has a usual name."""
        bases = dict.fromkeys((self._addresses.site, urljoin(self._addresses.site, "/")))
        guesses = [urljoin(base, name) for base in bases for name in _NAMES]
        pages: dict[str, None] = {}
        seen = set[str]()
        pending = deque(address for sitemap in named if (address := joined(self._addresses.site, sitemap)))
        while (pending or (guesses and not pages)) and len(pages) <= 2 * PAGES:
            is_named = bool(pending)
            address = pending.popleft() if pending else guesses.pop(0)
            address = self._addresses.served(address) or address
            if address in seen or len(seen) >= _SITEMAPS + len(_NAMES) * 2:
                continue
            seen.add(address)
            found, further = await self._read(address, is_named=is_named)
            pages.update(dict.fromkeys(found))
            pending.extend(further)
        if self._unread > _SHOWN:
            self.notes.append(f"And {counted(self._unread - _SHOWN, 'other sitemap')} could not be read.")
        return self._ours(pages)

    async def _read(self, address: str, *, is_named: bool) -> tuple[list[str], list[str]]:
        """Return the addresses of the pages that a sitemap lists, and those of further sitemaps."""
        try:
            place, content = await self._content(address)
        except (GoneError, FailedError) as error:
            if is_named:
                self._tell_unread(address, error)
            return [], []
        pages, sitemaps = (
            [absolute for link in links if (absolute := joined(place, link))] for links in locations(content)
        )
        return pages, sitemaps

    async def _content(self, address: str) -> tuple[str, bytes]:
        """Return where a sitemap is and what it says; raises GoneError and FailedError."""
        place = self._addresses.served(address)
        if place is None:
            raise GoneError("lies on another host and was not read")
        for _ in range(REDIRECTS + 1):
            if not self._may_fetch(place):
                raise GoneError("is forbidden by robots.txt")
            response = await self._client.ask(place, _BYTES)
            target = target_of(place, response)
            if target is None:
                return place, _checked(response)
            place = self._addresses.here(target)
            if place is None:
                raise GoneError(f"redirects to {target}")
        raise GoneError("redirects too often")

    def _tell_unread(self, address: str, error: Exception) -> None:
        self._unread += 1
        if self._unread <= _SHOWN:
            self.notes.append(printable(f"The sitemap {address} {error}."))

    def _ours(self, addresses: Mapping[str, None]) -> list[str]:
        """Return what lies below the site's address, which a sitemap can also give by the book's; tells of the others."""
        ours: list[str] = []
        others: Counter[str] = Counter()
        for address in addresses:
            own = self._addresses.own(address)
            if own is not None:
                ours.append(own)
            else:
                parts = urlsplit(address)
                others[f"{parts.scheme}://{parts.netloc}"] += 1
        for other, count in others.most_common(_SHOWN):
            note = f"The sitemap lists {counted(count, 'page')} of {other} that are not below {self._addresses.site}."
            self.notes.append(printable(note))
        return ours


def _checked(response: Response) -> bytes:
    """Return what a sitemap says; raises GoneError."""
    if not response.is_success:
        raise GoneError(f"answered {response.status}")
    content = response.content
    return _unzipped(content) if content.startswith(b"\x1f\x8b") else content


def _unzipped(content: bytes) -> bytes:
    try:
        decompressor = zlib.decompressobj(16 + zlib.MAX_WBITS)
        return decompressor.decompress(content, _BYTES)
    except zlib.error as error:
        raise GoneError(f"is no gzip file: {error}") from error
