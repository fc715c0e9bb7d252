"""The check at the end of a run, without asking anybody: which anchors and links of the book lead nowhere."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote, urljoin

from app.book.shelf import comparable

_SUFFIX = ".html"


@dataclass(frozen=True)
class Linked:
    """What the check needs of a page that was read."""

    name: str
    address: str
    places: frozenset[str]
    """Where browsers may have it from, which links are relative to."""
    anchors: frozenset[str]
    repeated: Sequence[str]
    """Anchors of headings that something before them has too."""
    links: frozenset[str]
    sources: Sequence[str]
    """The addresses of its sections."""


def faults(pages: Sequence[Linked], kept: Sequence[str], root: str, exists: Callable[[str], bool]) -> list[str]:
    """Return what leads nowhere, each as a line that is safe to print.

    Nothing is known of the anchors of the pages that were `kept`. `exists` tells whether there is something at an address
    below the root that is no page of the book.
    """
    known: dict[str, frozenset[str] | None] = {comparable(address): None for address in kept}
    known |= {comparable(page.address): page.anchors for page in pages}
    top = comparable(root)
    found = [line for page in pages for line in _own_faults(page)]
    dead: dict[tuple[str, str], list[str]] = {}
    for page in pages:
        for link in sorted(page.links):
            targets = {_joined(place, link) for place in page.places}
            reasons = [_reason(target, known, top, exists) for target in targets]
            if reasons and all(reasons):
                dead.setdefault((min(targets), str(reasons[0])), []).append(page.name)
    for (target, reason), [first, *others] in dead.items():
        more = f" and {len(others):,} other page{'s' if len(others) > 1 else ''} link" if others else " links"
        found.append(f"{first}{more} to {target}, {reason}")
    return [printable(line) for line in found]


def repeated_anchor(name: str, anchor: str) -> str:
    """Return the line about an anchor that leads to something before its heading."""
    return printable(f"{name} has the anchor #{anchor} more than once, and links lead to the first")


def printable(line: str) -> str:
    """Return the line with its invisible characters percent-encoded: what pages say must not control a terminal."""
    return "".join(char if char.isprintable() else quote(char, errors="surrogatepass") for char in line)


def _own_faults(page: Linked) -> list[str]:
    missing = dict.fromkeys(source for source in page.sources if _is_missing(source, page.anchors))
    return [
        *(f"{source} is an anchor that its page does not have" for source in missing),
        *(repeated_anchor(page.name, anchor) for anchor in dict.fromkeys(page.repeated)),
    ]


def _joined(place: str, link: str) -> str:
    try:
        return urljoin(place, link)
    except ValueError:
        return ""


def _is_missing(address: str, anchors: frozenset[str]) -> bool:
    """Whether an address names an anchor that is not among these; none is named if browsers or scripts read it otherwise."""
    raw = address.partition("#")[2]
    anchor = _without_directive(unquote(raw))
    if not anchor or anchor.lower() == "top" or anchor.startswith(("/", "!")):
        return False
    # Browsers look for the anchor as it is written first, since an id may have percent signs itself.
    return anchor not in anchors and _without_directive(raw) not in anchors


def _without_directive(fragment: str) -> str:
    return fragment.partition(":~:")[0]


def _reason(
    target: str, known: Mapping[str, frozenset[str] | None], root: str, exists: Callable[[str], bool]
) -> str | None:
    """Return why an address leads nowhere; None if it may lead somewhere, or out of the book."""
    page = comparable(target)
    if not target.startswith(("http://", "https://")) or not (page == root or page.startswith(f"{root}/")):
        return None
    others = (page, page.removesuffix(_SUFFIX), page + _SUFFIX)
    here = next((other for other in others if other in known), None)
    if here is None:
        return None if exists(target.partition("#")[0]) else "a page that the book does not have"
    anchors = known[here]
    if anchors is None or not _is_missing(target, anchors):
        return None
    return "an anchor that its page does not have"
