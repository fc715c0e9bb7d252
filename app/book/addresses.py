"""The addresses of a site that is read, which its book can have elsewhere."""

from dataclasses import dataclass
from urllib.parse import unquote, urldefrag, urlsplit

from app.book.tree import quoted


@dataclass(frozen=True)
class Addresses:
    """Tells which addresses are the site's."""

    site: str
    """The address below which its pages are asked for; ends in a slash."""
    url: str
    """The address below which they are in the book; ends in a slash."""

    def own(self, address: str) -> str | None:
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

    def here(self, address: str) -> str | None:
        """Return the address by the site's own scheme; None if it is on another host."""
        return self._on_host(address, self.site)

    def served(self, address: str) -> str | None:
        """Return where the site has this address, which can be one of the book's host; None if it is on another host."""
        return self.own(address) or self.here(address) or self._on_host(address, self.url)

    def moved_to(self, address: str, target: str) -> str | None:
        """Return where the site has moved if a redirect changes nothing but scheme or host; None if it changes more."""
        parts, site = urlsplit(target), urlsplit(self.site)
        is_elsewhere = (parts.scheme, parts.netloc.lower()) != (site.scheme, site.netloc)
        if not is_elsewhere or address not in {self.own(target), self.here(target)}:
            return None
        base = self.site if parts.netloc.lower() == site.netloc else self.url
        return f"{parts.scheme}:{base.partition(':')[2]}"

    def _on_host(self, address: str, base: str) -> str | None:
        try:
            parts = urlsplit(urldefrag(address.strip()).url)
        except ValueError:
            return None
        if parts.scheme not in {"http", "https"} or parts.netloc.lower() != urlsplit(base).netloc:
            return None
        site = urlsplit(self.site)
        return parts._replace(scheme=site.scheme, netloc=site.netloc, path=parts.path or "/").geturl()
