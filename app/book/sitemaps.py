"""What a site's sitemaps list."""

import zlib
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urljoin, urlsplit

from app.book.addresses import Addresses
from app.book.client import Client, FailedError, GoneError
from app.book.site import locations
from app.book.tree import counted

PAGES = 20_000
"""How many pages of a site are read."""

_SITEMAPS = 200
_BYTES = 50_000_000
_NAMES = ("sitemap.xml", "sitemap-index.xml", "sitemap_index.xml", "sitemap.xml.gz", "sitemap.txt")


class Sitemaps:
    """Reads the sitemaps of one site."""

    def __init__(self, addresses: Addresses, client: Client, may_fetch: Callable[[str], bool]) -> None:
        self.notes: list[str] = []
        """What the site's owner should know of them, each a sentence."""
        self._addresses = addresses
        self._client = client
        self._may_fetch = may_fetch

    async def pages(self, sitemaps: Sequence[str]) -> list[str]:
        """Return the addresses of the site that these sitemaps list, or those that have a sitemap's usual name if there are none."""
        named = [urljoin(self._addresses.site, sitemap) for sitemap in sitemaps]
        guesses = [
            urljoin(base, name)
            for base in dict.fromkeys((self._addresses.site, urljoin(self._addresses.site, "/")))
            for name in _NAMES
        ]
        pages: dict[str, None] = {}
        seen = set[str]()
        pending = deque(named)
        while pending or (guesses and not pages):
            address = pending.popleft() if pending else guesses.pop(0)
            is_ours = urlsplit(address).netloc.lower() == urlsplit(self._addresses.site).netloc
            if address in seen or not is_ours or len(seen) >= _SITEMAPS + len(_NAMES) * 2:
                continue
            seen.add(address)
            found, further = locations(await self._sitemap(address, is_named=address in named))
            pages.update(dict.fromkeys(found))
            pending.extend(urljoin(address, sitemap) for sitemap in further)
            if len(pages) > 2 * PAGES:
                break
        return self._ours(pages)

    async def _sitemap(self, address: str, *, is_named: bool) -> bytes:
        if not self._may_fetch(address):
            self.notes.append(f"robots.txt forbids {address}.")
            return b""
        try:
            response = await self._client.ask(address, _BYTES)
            content = response.content
            return _unzipped(content) if content.startswith(b"\x1f\x8b") else content
        except (GoneError, FailedError) as error:
            if is_named:
                self.notes.append(f"The sitemap {address} {error}.")
            return b""

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
        for other, count in others.most_common(3):
            self.notes.append(
                f"The sitemap lists {counted(count, 'page')} of {other} that are not below {self._addresses.site}."
            )
        return ours


def _unzipped(content: bytes) -> bytes:
    try:
        decompressor = zlib.decompressobj(16 + zlib.MAX_WBITS)
        return decompressor.decompress(content, _BYTES)
    except zlib.error as error:
        raise GoneError(f"is no gzip file: {error}") from error
