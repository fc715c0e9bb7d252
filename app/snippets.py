"""A passage's beginning as plain text: what a reader is shown of a source before following it."""

import re
from collections.abc import Iterator

MOST_CHARS = 200

_FENCE = re.compile(
    r"^[ \t]*(`{3,}|~{3,}|\$\$|:{3,}(?=[ \t]*mermaid)).*?(?:^[ \t]*\1[`~:]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL
)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_BLANK = re.compile(r"\n[ \t]*\n")
_NOT_PROSE = re.compile(
    r"[ \t]*(?:#{1,6}(?:[ \t]|$)|\||:{3,}|!\[[^\]]*\]\([^)]*\)[ \t]*$|(?:[-*_=][ \t]*){3,}$|\[[^\]]+\]:[ \t])"
)
"""The lines of headings, tables and containers, of pictures by themselves, rules, and definitions of links."""
_MARK = re.compile(r"[ \t]*(?:>[ \t]?|[-*+][ \t]+(?:\[[ xX]\][ \t]+)?|[0-9]{1,9}[.)][ \t]+)")
"""What begins a line of a quotation or a list."""
_PICTURE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_LINK = re.compile(r"\[([^\[\]]*)\](?:\([^()]*(?:\([^()]*\)[^()]*)*\)|\[[^\[\]]*\])")
_FOOTNOTE = re.compile(r"\[\^[^\]\s]+\]")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_AS_IT_IS = re.compile(r"(`+)(?P<code>.+?)\1|(?P<formula>\$[^$]+\$|\\\(.+?\\\))")
_EMPHASIS = re.compile(r"(?<![\w*\\])(\*{1,3}|_{1,3}|~~)(?=\S)(.+?)(?<=\S)\1(?![\w*])")
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
    for block in _BLANK.split(_FENCE.sub("\n\n", _COMMENT.sub("", text.replace("\x00", "")))):
        paragraph: list[str] = []
        for line in block.split("\n"):
            mark = _MARK.match(line)
            if paragraph and (mark or _NOT_PROSE.match(line)):
                yield from _plain(paragraph)
                paragraph = []
            if not _NOT_PROSE.match(line):
                paragraph.append(line[mark.end() :] if mark else line)
        yield from _plain(paragraph)


def _plain(lines: list[str]) -> Iterator[str]:
    """Yield the text of the lines without its marks, if there is any."""
    kept: list[str] = []

    def keep(found: re.Match[str]) -> str:
        kept.append((found["code"] or found["formula"]).strip())
        return f"\x00{len(kept) - 1}\x00"

    text = _AS_IT_IS.sub(keep, " ".join(lines))
    for pattern, replacement in ((_PICTURE, ""), (_LINK, r"\1"), (_FOOTNOTE, ""), (_TAG, "")):
        text = pattern.sub(replacement, text)
    for _ in range(2):  # Strong text can have emphasis in it.
        text = _EMPHASIS.sub(r"\2", text)
    text = re.sub(r"\x00(\d+)\x00", lambda found: kept[int(found[1])], _ESCAPE.sub(r"\1", text))
    if plain := " ".join(text.split()):
        yield plain


def _cut(text: str) -> str:
    """Return the text up to the last word that fits; a script without spaces is cut anywhere."""
    fitting = text[: MOST_CHARS + 1]
    end = max(fitting.rfind(" "), fitting.rfind("\n"))
    return (fitting[:end] if end > MOST_CHARS // 2 else fitting[:MOST_CHARS]).rstrip(" \n,;:")
