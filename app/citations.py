"""Citation markers: the `[n]` with which an answer names the passage that it takes something from.

Models write them in many ways: `[1, 2]`, `[1-3]`, `[[1]]`, `[Passage 1]`, `【1†source】`. Here all of them become `[n]`, one for
each passage. What only looks like a marker stays as it is: code, formulas, links, footnotes, and whatever has a zero in it,
such as the interval [0, 1].
"""

import re
from itertools import chain

_OPEN, _CLOSE, _DASH, _COMMA = "[\\[［【]", "[\\]］】]", "[-\u2010-\u2015\u2212]", "[,;،、，；]"  # noqa: RUF001  # Models write these.
_ITEM = rf"\d{{1,9}}(?:[ ]?{_DASH}[ ]?\d{{1,9}})?"
_BODY = rf"(?:(?:passage|source)s?[ ])?{_ITEM}(?:[ ]?{_COMMA}[ ]?{_ITEM})*+(?:†[^\[\]［］【】\n]*+)?"  # noqa: RUF001
_MARKER = rf"(?:{_OPEN}{_BODY}{_CLOSE}|{_OPEN}{{2}}{_BODY}{_CLOSE}{{2}})"

_PATTERN = re.compile(
    rf"""
      # Fenced code, which can end with the text
      ^[ \t>]*+(?:(?:[-*+]|\d{{1,9}}[.)])[ \t]++)*+(?P<fence>`{{3,}}+(?=[^`\n]*$)|~{{3,}}+)
        (?s:.*?)(?:^[ \t>]*+(?P=fence)[`~]*+[ \t]*+$|\Z)
    | # Code in a line, which a blank line ends
      (?<!`)(?P<ticks>`++)(?s:(?!\n[ \t]*\n).)+?(?<!`)(?P=ticks)(?!`)
    | # Formulas
      \$\$(?s:.+?)\$\$ | \$(?=[^\s$])[^$\n]*(?<=\S)\$(?!\d)
    | \\\[(?s:(?!\\\[).)*?\\\] | \\\((?s:(?!\\\().)*?\\\)
    | # Links and their definitions, escaped characters
      !?\[(?:[^\[\]\n]|\[[^\[\]\n]*+\])*+\]\((?:[^()\n]|\([^()\n]*+\))*+\)
    | ^[ ]{{0,3}}\[[^\[\]\n]++\]:[ \t]*+(?=<|https?:)[^\n]*+
    | \\[^\s\w]
    | # Markers, unless they are a part of what other brackets hold
      (?:(?P<indent>^[ \t]*+)|(?<![ \t])[ \t]*+|)
      (?P<markers>(?<!{_OPEN})(?:{_MARKER}(?!\()(?!(?:[\d\s]|{_DASH}|{_COMMA})*+(?:{_CLOSE}|†)))+)
      (?(indent)(?P<after>[ \t]*+))
    """,
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)
_SINGLE = re.compile(_MARKER, re.IGNORECASE)
_ITEMS = re.compile(rf"(\d+)(?:[ ]?{_DASH}[ ]?(\d+))?")


def cite(text: str, passages: int) -> tuple[str, list[int]]:
    """Return an answer with its markers as `[n]`, and the numbers that it cites, in ascending order.

    Markers of passages that do not exist are removed; passages are numbered from 1. Without passages there is nothing to
    cite, and the text stays as it is.
    """
    return _rewrite(text, passages) if passages else (text, [])


def without_markers(text: str) -> str:
    """Return an answer without its markers, or as it is if there is nothing else in it."""
    bare, _ = _rewrite(text, passages=0)
    return bare if bare.strip() else text


def marker_ends(text: str) -> dict[int, int]:
    """Return where in a text that `cite` returned the first marker of each number ends."""
    ends: dict[int, int] = {}
    for match in _PATTERN.finditer(text):
        for marker in _SINGLE.finditer(match["markers"] or ""):
            for number, _ in _ranges(marker[0]):
                ends.setdefault(number, match.start("markers") + marker.end())
    return ends


def _rewrite(text: str, passages: int) -> tuple[str, list[int]]:
    cited: set[int] = set()

    def rewrite_one(marker: re.Match[str]) -> str:
        ranges = _ranges(marker[0])
        # The end of a range can be any number.
        existing = (range(first, min(last, passages) + 1) for first, last in ranges)
        numbers = dict.fromkeys(chain.from_iterable(existing))
        cited.update(numbers)
        return "".join(f"[{number}]" for number in numbers) if ranges else marker[0]

    def rewrite(match: re.Match[str]) -> str:
        if match["markers"] is None:
            return match[0]
        markers = _SINGLE.sub(rewrite_one, match["markers"])
        if not markers:
            return match["indent"] or ""
        return f"{text[match.start() : match.start('markers')]}{markers}{match['after'] or ''}"

    return _PATTERN.sub(rewrite, text), sorted(cited)


def _ranges(marker: str) -> list[tuple[int, int]]:
    """Return the numbers of a marker as ranges, each with its last number; none if one of them is zero."""
    items = _ITEMS.findall(marker.partition("†")[0])
    ranges = [_in_order(int(first), int(last or first)) for first, last in items]
    return ranges if all(first > 0 for first, _ in ranges) else []


def _in_order(first: int, last: int) -> tuple[int, int]:
    return min(first, last), max(first, last)
