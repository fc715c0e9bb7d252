"""From a page to the pieces that are searched: its sections, each of a size that a model can be sent several of."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from markdown_it import MarkdownIt
from markdown_it.token import Token

from app.book.mdx import HIDDEN, MARK, MATH_FENCE, ReadPartial, to_markdown
from app.book.shelf import SEPARATOR
from app.book.slugs import Slugger

MAX_CHARS = 2_000
"""The most characters of a chunk with its title, which are at most 8,000 bytes: fewer than the 8,192 tokens of a model."""

MIN_CHARS = 200
"""A section with fewer is joined with the next one."""

_MAX_HEADING_CHARS = 120
_MAX_TITLE_CHARS = 400

_CUSTOM_ANCHOR = re.compile(r"\{#(?P<anchor>(?:.(?!\{#|\}))*.)\}$")
_ATTRIBUTES = re.compile(
    r"\{:?[ ]*+(?=[#.])(?:[#.][^\s{}#.][^\s{}]*[ ]*+|[\w-]+=(?:\"[^\"{}]*\"|'[^'{}]*'|[^\s\"'{}]+)[ ]*+|-[ ]*+)++\}[ ]*$"
)
"""A heading's attribute list, as other generators have it: `{ #id .class }`."""
_DIRECTIVE = re.compile(r"(?<!:):[A-Za-z](?:[\w-]*[A-Za-z0-9])?(?:\[([^\[\]]*)\])?(?:\{[^{}]*\})?(?![\w:-])", re.ASCII)
_DISPLAYED = re.compile(rf"^([ \t>]*(?:[-*+][ \t]+)?){MATH_FENCE}$", re.MULTILINE)


@dataclass(frozen=True)
class Chunk:
    """A piece of a page."""

    source: str
    """The absolute address of its section, with the section's anchor; percent-encoded, as browsers send it."""
    page: str
    """The absolute address of its page."""
    title: str
    """The headings above it, from the page's title down."""
    position: int
    """Its place in the page, from 0."""
    text: str
    """Markdown, with formulas in TeX."""


@dataclass
class Section:
    """A heading and what stands below it, up to the next one."""

    anchor: str
    level: int
    headings: tuple[str, ...]
    blocks: list[tuple[str, str]] = field(default_factory=list)
    """The kind and the text of each paragraph, list, table and the like."""


class Outline:
    """The sections of a page, made from its headings and blocks in their order."""

    def __init__(self) -> None:
        self.sections = [Section(anchor="", level=1, headings=())]
        """Begins with what stands before any heading."""
        self.title: str | None = None
        """The first heading of level 1."""
        self._above: list[tuple[int, Section]] = []

    def add_heading(self, level: int, heading: str, anchor: str | None) -> None:
        """Begin a section; without an anchor of its own, it has that of the section which it is a part of."""
        self._above = [(outer, section) for outer, section in self._above if outer < level]
        enclosing = self._above[-1][1] if self._above else self.sections[0]
        headings = enclosing.headings
        if level == 1:
            self.title = self.title or heading
        if heading and not (level == 1 and heading == self.title):
            headings = (*headings, _shortened(heading, _MAX_HEADING_CHARS))
        section = Section(enclosing.anchor if anchor is None else anchor, level, headings)
        self._above.append((level, section))
        self.sections.append(section)

    def add_block(self, kind: str, text: str) -> None:
        """Add a paragraph, a list, a table or the like to the section."""
        self.sections[-1].blocks.append((kind, text))


@dataclass
class _Piece:
    """A section, or a part of a long one."""

    section: Section
    text: str


def chunk_page(  # noqa: PLR0913  # Each is a part of what a file says of its page.
    text: str,
    *,
    page: str,
    title: str | None,
    fallback: str,
    is_mdx: bool,
    read_partial: ReadPartial = lambda _path: "",
    repeated: list[str] | None = None,
) -> list[Chunk]:
    """Return the page's chunks in their order; none if it has no text.

    Without a title the page's own first heading is its title, and without that the fallback. Anchors that a heading above has
    too are added to `repeated`.
    """
    markdown, is_mdx = to_markdown(text, is_mdx=is_mdx, read_partial=read_partial)
    outline = _outline(markdown, is_mdx=is_mdx, repeated=repeated)
    return chunk_sections(outline.sections, page=page, title=title or outline.title or fallback)


def chunk_sections(sections: Sequence[Section], *, page: str, title: str) -> list[Chunk]:
    """Return the chunks of a page's sections in their order."""
    page_title = _shortened(title, _MAX_HEADING_CHARS)
    pieces: list[_Piece] = []
    for section in sections:
        limit = MAX_CHARS - len(_title(page_title, section)) - 2
        pieces += [_Piece(section, part) for part in _split_section(section.blocks, limit)]
    return [
        Chunk(_source(page, section.anchor), page, _title(page_title, section), position, chunk)
        for position, (section, chunk) in enumerate(_merge(pieces, page_title))
    ]


def partial_in_page(text: str, *, read_partial: ReadPartial) -> str:
    """Return a partial as Markdown for the page that imports it; its headings have their anchors, which it counts by itself."""
    markdown, _ = to_markdown(text, is_mdx=True, read_partial=read_partial)
    lines = markdown.split("\n")
    parser, tokens = _parsed(markdown, is_mdx=True)
    slugger = Slugger()
    for index, token in enumerate(tokens):
        if token.type == "heading_open" and token.map and token.markup.startswith("#"):
            content = tokens[index + 1].content
            _, anchor = _heading(parser, content, slugger)
            if anchor and not _CUSTOM_ANCHOR.search(content):
                line = lines[token.map[0]]
                lines[token.map[0]] = f"{line[: line.index('#')]}{token.markup} {content} {{#{anchor}}}"
    return "\n".join(lines)


def _source(page: str, anchor: str) -> str:
    return f"{page}#{quote(anchor, safe="!$&'()*+,;=:@-._~/?%{}|^[]#")}" if anchor else page


def _title(page_title: str, section: Section) -> str:
    # The page's own heading often repeats its title.
    headings = [page_title, *(heading for heading in section.headings if heading != page_title)]
    title = SEPARATOR.join(headings)
    return title if len(title) <= _MAX_TITLE_CHARS else SEPARATOR.join([page_title, headings[-1]])


def _shortened(heading: str, limit: int) -> str:
    return heading if len(heading) <= limit else heading[: limit - 1].rstrip() + "…"


def _outline(markdown: str, *, is_mdx: bool, repeated: list[str] | None = None) -> Outline:
    parser, tokens = _parsed(markdown, is_mdx=is_mdx)
    lines = markdown.split("\n")
    slugger = Slugger()
    outline = Outline()
    anchors = set[str]()
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            level = int(token.tag[1])
            heading, anchor = _heading(parser, tokens[index + 1].content, slugger)
            if token.level > 0:
                continue  # In a list or a quotation, where no section begins.
            if level > 1 and anchor in anchors and repeated is not None:
                repeated.append(anchor)
            anchors.add(anchor)
            # Docusaurus shows headings of level 1 without their anchors.
            outline.add_heading(level, heading, "" if level == 1 else anchor)
        if token.level == 0 and token.map and token.nesting >= 0 and token.type not in {"heading_open", "hr"}:
            start, end = token.map
            if block := _block(lines[start:end]):
                outline.add_block(token.type.removesuffix("_open"), block)
    return outline


def _parsed(markdown: str, *, is_mdx: bool) -> tuple[MarkdownIt, list[Token]]:
    """Return the blocks of the page, and what parses the text of its headings; nothing else is left to be parsed."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["html_block", "reference", "text_join"])
    if is_mdx:
        parser.disable("code")
    tokens: list[Token] = []
    parser.block.parse(markdown, parser, {}, tokens)
    return parser, tokens


def _heading(parser: MarkdownIt, content: str, slugger: Slugger) -> tuple[str, str]:
    """Return the heading's text and its anchor."""
    custom = _CUSTOM_ANCHOR.search(content)
    listed = None if custom else _ATTRIBUTES.search(content)
    if listed and (anchor := re.search(r"#([^\s{}]+)", listed[0])):
        content = f"{content[: listed.start()]}{{#{anchor[1]}}}"
        custom = _CUSTOM_ANCHOR.search(content)
    elif listed:
        content = content[: listed.start()]
    [inline] = parser.parseInline(content[: custom.start()].rstrip() if custom else content.rstrip())
    parts = inline.children or []
    shown = " ".join(HIDDEN.sub("", "".join(map(_text_of, parts))).replace(MARK, "").split())
    if custom:
        return shown, custom["anchor"].strip()
    counted = (_DIRECTIVE.sub(_label_of, part.content) if part.type == "text" else _text_of(part) for part in parts)
    return shown, slugger.slug("".join(counted))


def _text_of(part: Token) -> str:
    return "\n" if part.type == "softbreak" else part.content


def _label_of(directive: re.Match[str]) -> str:
    return directive[1] or ""


def _block(lines: Sequence[str]) -> str:
    """Return the lines without their common indentation, blank lines at their ends, and stand-ins."""
    text = "\n".join(line.rstrip() for line in lines).replace(MARK, "").strip("\n")
    margin = min((len(line) - len(line.lstrip(" ")) for line in text.split("\n") if line.strip()), default=0)
    text = "\n".join(line[margin:] for line in text.split("\n"))
    text = (
        re.sub(r"\n{3,}", "\n\n", text) if MATH_FENCE not in text and "```" not in text and "~~~" not in text else text
    )
    return _DISPLAYED.sub(r"\1$$", text).strip("\n") if text.strip() else ""


def _split_section(blocks: Sequence[tuple[str, str]], limit: int) -> Iterator[str]:
    """Join the blocks up to the limit; only a block that is longer by itself is cut."""
    parts: list[str] = []
    for kind, block in blocks:
        parts += [block] if len(block) <= limit else _cut(kind, block, limit)
    return _join(parts, "\n\n", limit)


def _join(parts: Sequence[str], separator: str, limit: int) -> Iterator[str]:
    """Join neighbours for as long as they keep within the limit."""
    joined = ""
    for part in parts:
        if joined and len(joined) + len(separator) + len(part) > limit:
            yield joined
            joined = ""
        joined = f"{joined}{separator}{part}" if joined else part
    if joined:
        yield joined


def _cut(kind: str, block: str, limit: int) -> Iterator[str]:
    """Cut a block where it hurts least; each part of a table has the table's head, and each part of code its fences."""
    lines = block.split("\n")
    if kind == "table" and len("\n".join(lines[:2])) < limit // 2:
        head = "\n".join(lines[:2])
        for part in _join(
            list(_pieces("\n".join(lines[2:]), limit - len(head) - 1, "\n")), "\n", limit - len(head) - 1
        ):
            yield f"{head}\n{part}"
    elif kind == "fence" and len(lines[0]) < limit // 2:
        fence = re.match(r"`+|~+|\$\$", lines[0])
        closing = fence[0] if fence else ""
        body = "\n".join(lines[1:-1] if lines[-1].strip() == closing else lines[1:])
        room = limit - len(lines[0]) - len(closing) - 2
        for separator in ("\n\n", "\n"):
            parts = list(_pieces(body, room, separator))
            if separator == "\n" or max(map(len, body.split("\n\n"))) <= room:
                break
        for part in _join(parts, separator, room):
            yield f"{lines[0]}\n{part}\n{closing}"
    else:
        yield from _recursively(block, limit)


def _pieces(text: str, limit: int, separator: str) -> Iterator[str]:
    for piece in text.split(separator):
        if len(piece) <= limit:
            yield piece
        else:
            yield from _recursively(piece, limit)


_SEPARATORS = (
    (re.compile(r"\n(?=(?:[-*+]|[0-9]{1,9}[.)])[ ])"), "\n"),  # Items of a list.
    (re.compile(r"\n[ ]*\n"), "\n\n"),
    (re.compile(r"\n"), "\n"),
    (
        re.compile(
            "(?<=[.!?\N{HORIZONTAL ELLIPSIS}\N{ARABIC FULL STOP}])[ ]+|(?<=[\N{IDEOGRAPHIC FULL STOP}\N{FULLWIDTH EXCLAMATION MARK}\N{FULLWIDTH QUESTION MARK}])"
        ),
        " ",
    ),
    (re.compile(r"[ ]+"), " "),
)


def _recursively(text: str, limit: int, level: int = 0) -> Iterator[str]:
    if len(text) <= limit:
        yield text
    elif level == len(_SEPARATORS):
        yield from (text[start : start + limit] for start in range(0, len(text), limit))
    else:
        pattern, separator = _SEPARATORS[level]
        parts = [part for piece in pattern.split(text) if piece for part in _recursively(piece, limit, level + 1)]
        yield from _join(parts, separator, limit)


def _merge(pieces: Sequence[_Piece], page_title: str) -> Iterator[tuple[Section, str]]:
    """Join short pieces with the next one of the same part of the page; the longest of them gives the source."""
    group: list[_Piece] = []
    for piece in pieces:
        if group and not _belongs(group, piece, page_title):
            yield _joined(group)
            group = []
        group.append(piece)
    if group:
        yield _joined(group)


def _belongs(group: list[_Piece], piece: _Piece, page_title: str) -> bool:
    above, headings = group[-1].section.headings, piece.section.headings
    is_below = headings[: len(above)] == above
    is_beside = headings[:-1] == above[:-1] and piece.section.level == group[-1].section.level
    longest = max(len(_title(page_title, one.section)) for one in (*group, piece))
    return (
        len(_text(group)) < MIN_CHARS
        and (is_below or is_beside)
        and len(_text([*group, piece])) + longest + 2 <= MAX_CHARS
    )


def _joined(group: list[_Piece]) -> tuple[Section, str]:
    return max(group, key=lambda piece: len(piece.text)).section, _text(group)


def _text(group: list[_Piece]) -> str:
    """Return the texts of the pieces; where there are several sections, each with its heading."""
    if all(piece.section is group[0].section for piece in group):
        return "\n\n".join(piece.text for piece in group)
    parts, shown = [], None
    for piece in group:
        section = piece.section
        if section is not shown and section.headings and section.level > 1:
            parts.append(f"{'#' * section.level} {section.headings[-1]}")
        shown = section
        parts.append(piece.text)
    return "\n\n".join(parts)
