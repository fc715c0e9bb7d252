"""A passage's beginning as plain text: what a reader is shown of a source before following it."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

MOST_CHARS = 200

_READ_CHARS = 4_000
"""How much of a passage is read: retrievers may give any length, and this runs between the requests of others."""
_READ_PARAGRAPH_CHARS = 1_000

_FENCE = re.compile(
    r"^[ \t]*(`{3,}|~{3,}|\$\$|:{3,}(?=[ \t]*mermaid)).*?(?:^[ \t]*\1[`~:]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL
)
_BLANK = re.compile(r"\n(?:[ \t]*\n)+")
_NOT_PROSE = re.compile(
    r"[ \t]*(?:#{1,6}(?:[ \t]|$)|\||:{3,}|!\[[^\]]*\]\([^)]*\)[ \t]*$|(?:[-*_=][ \t]*){3,}$|\[[^\]]+\]:[ \t])"
)
"""The lines of headings, tables and containers, of pictures by themselves, rules, and definitions of links."""
_MARK = re.compile(r"[ \t]*(?:>[ \t]?|[-*+][ \t]+(?:\[[ xX]\][ \t]+)?|[0-9]{1,9}[.)][ \t]+)")
"""What begins a line of a quotation or a list."""
# The marks of text are looked for within bounds: with many that are never closed, the time would grow with the square.
_PICTURE = re.compile(r"!\[[^\]]{0,300}\]\([^)]{0,500}\)")
_LINK = re.compile(r"\[([^\[\]]*)\](?:\([^()]*(?:\([^()]*\)[^()]*)*\)|\[[^\[\]]*\])")
_FOOTNOTE = re.compile(r"\[\^[^\]\s]{1,60}\]")
_AS_IT_IS = re.compile(
    r"(?<![`\\])(?P<run>`{1,8})(?!`)(?P<code>.{1,300}?)(?<!`)(?P=run)(?!`)"
    r"|(?P<formula>\$[^$]+\$|\\\(.{1,300}?\\\))"
    r"|<(?P<address>https?://[^<>\s]{1,500}|[^<>\s@]{1,60}@[^<>\s@]{1,100})>",
    re.DOTALL,
)
_EMPHASIS = re.compile(
    r"(?<![\w*\\])(?!__[a-z][a-z0-9_]{0,60}__(?!\w))"  # Python's names, such as `__init__`, are none.
    r"(\*{1,3}|_{1,3}|~~)(?=\S)(.[^*_~]*+(?:[*_~][^*_~]*+){0,30}?)(?<![\s\\])\1(?![\w*])"
)
_KEPT = re.compile(r"\x00(\d+)\x00")
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")


def snippet_of(text: str) -> str:
    """Return the beginning of a passage's prose, of at most 200 characters and an ellipsis, as its page shows it.

    It ends with a word, and each block of the page is a line. Headings, tables, code and pictures are left out; formulas are in
    TeX between dollar signs. A passage without prose has none.
    """
    snippet = ""
    for line in _prose(text):
        joined = f"{snippet}\n{line}" if snippet else line
        if len(joined) > MOST_CHARS:
            return f"{_cut(joined)}…"
        snippet = joined
    return snippet


def _prose(text: str) -> Iterator[str]:
    for block in _BLANK.split(_FENCE.sub("\n\n", _without_comments(text).replace("\x00", ""))):
        paragraph: list[str] = []
        for line in _without_table(block.split("\n")):
            mark = _MARK.match(line)
            if paragraph and (mark or _NOT_PROSE.match(line)):
                yield from _plain(paragraph)
                paragraph = []
            if not _NOT_PROSE.match(line):
                paragraph.append(line[mark.end() :] if mark else line)
        yield from _plain(paragraph)


def _without_comments(text: str) -> str:
    """Return the beginning of the text that is read, without its comments."""
    kept, at = [], 0
    while (start := text.find("<!--", at, _READ_CHARS)) >= 0 and (end := text.find("-->", start + 4)) >= 0:
        kept.append(text[at:start])
        at = end + 3
    return "".join([*kept, text[at:_READ_CHARS]])


def _without_table(lines: Sequence[str]) -> Sequence[str]:
    """Return the lines of a block before its table, if it has one without pipes around it: that goes on to the block's end."""
    for number, (above, line) in enumerate(pairwise(lines)):
        if "|" in above and "|" in line and "-" in line and not line.strip(" \t|:->"):
            return lines[:number]
    return lines


def _plain(lines: list[str]) -> Iterator[str]:
    """Yield the text of the lines without its marks, if there is any."""
    if not any(lines):
        return
    kept: list[str] = []

    def keep(found: re.Match[str]) -> str:
        kept.append((found["code"] or found["formula"] or found["address"]).strip())
        return f"\x00{len(kept) - 1}\x00"

    text = _AS_IT_IS.sub(keep, "\n".join(lines)[:_READ_PARAGRAPH_CHARS])
    text = text.replace("\\\n", " ").replace("\n", " ")  # A backslash at the end of a line breaks it.
    for pattern, replacement in ((_PICTURE, ""), (_LINK, r"\1"), (_FOOTNOTE, "")):
        text = pattern.sub(replacement, text)
    for _ in range(2):  # Strong text can have emphasis in it.
        text, count = _EMPHASIS.subn(r"\2", text)
        if not count:
            break
    text = _KEPT.sub(lambda found: kept[int(found[1])], _ESCAPE.sub(r"\1", text))
    if plain := " ".join(text.split()):
        yield plain


def _cut(text: str) -> str:
    """Return the text up to the last word that fits; a script without spaces is cut anywhere."""
    fitting = text[: MOST_CHARS + 1]
    end = max(fitting.rfind(" "), fitting.rfind("\n"))
    return (fitting[:end] if end > MOST_CHARS // 2 else fitting[:MOST_CHARS]).rstrip(" \n,;:")
