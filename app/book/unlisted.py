"""What the pages of a site link to and its sitemap does not list."""

import re
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from app.book.client import joined
from app.book.shelf import comparable

_LINKS = 1_000_000
"""How many links are looked at, which takes at most two minutes of a processor."""
_ADDRESSES = 10_000
"""How many addresses are kept."""
_EXAMPLES = 2
_SUFFIX = ".html"
_NO_PAGES = re.compile(r"/(?:404|print|search|genindex[^/]*|(?:py-)?modindex|domainindex)(?:\.html)?/?$")
"""What generators make besides the pages, and leave out of their sitemaps for good reason."""


class Unlisted:
    """Counts the addresses that pages link to and that are not listed, up to a limit."""

    def __init__(self, listed: Iterable[str], page_of: Callable[[str], str | None]) -> None:
        """Count what is not `listed`; `page_of` returns the address without its query if it may be a page of the site."""
        self._listed = {_key(address) for address in listed}
        self._page_of = page_of
        self._seen = set[str]()
        self._found: dict[str, str] = {}
        self._links = 0

    def add(self, place: str, links: Iterable[str]) -> None:
        """Take the links of the page at this place."""
        for link in links:
            if self._is_full():
                return
            self._links += 1
            address = joined(place, link)
            if address is None or address in self._seen:
                continue
            if len(self._seen) < _ADDRESSES:  # Most links of a site are in the frame of each of its pages.
                self._seen.add(address)
            self._take(address)

    def _take(self, address: str) -> None:
        page = self._page_of(address)
        if page is None or _NO_PAGES.search(urlsplit(page).path):
            return
        key = _key(page)
        if key not in self._listed:
            # Of several ways to write an address, the same one is shown in each run.
            self._found[key] = min(page, self._found.get(key, page))

    def _is_full(self) -> bool:
        return self._links >= _LINKS or len(self._found) >= _ADDRESSES

    def note(self, read: Iterable[str]) -> str | None:
        """Return a sentence on them for the site's owner, if there are any besides the pages that were `read`."""
        known = {_key(address) for address in read}
        found = sorted(address for key, address in self._found.items() if key not in known)
        if not found:
            return None
        count = f"{'at least ' if self._is_full() else ''}{len(found):,} address{'' if len(found) == 1 else 'es'}"
        such_as = ", such as" if len(found) > _EXAMPLES else ":"
        examples = " and ".join(found[:_EXAMPLES])
        return f"The pages link to {count} that the sitemap does not list, and that were not read{such_as} {examples}."


def _key(address: str) -> str:
    """Return the page that an address names, however the address is written."""
    return comparable(address).removesuffix(_SUFFIX)
