"""A heading's anchor, as Docusaurus makes it: with github-slugger's rules."""

import re
import unicodedata

_CIRCLED = re.compile("[Ⓐ-ⓩ\U0001f130-\U0001f149\U0001f150-\U0001f169\U0001f170-\U0001f189]")
"""Symbols that Unicode counts as letters."""


class Slugger:
    """Makes the anchors of one page; the headings must come in their order."""

    def __init__(self) -> None:
        self._occurrences: dict[str, int] = {}

    def slug(self, heading: str) -> str:
        """Return the anchor for a heading's text; a number tells it from those that were made before."""
        first = anchor = "".join(_kept(character) for character in heading.lower())
        while anchor in self._occurrences:
            self._occurrences[first] += 1
            anchor = f"{first}-{self._occurrences[first]}"
        self._occurrences[anchor] = 0
        return anchor


def _kept(character: str) -> str:
    if character in " -":
        return "-"
    category = unicodedata.category(character)
    is_kept = category[0] in "LM" or category in {"Nd", "Nl", "Pc"} or _CIRCLED.match(character)
    return character if is_kept else ""
