"""From a page's MDX to the Markdown that its readers see.

What is code goes: imports, exports, tags with their properties, comments and expressions. The text between tags stays, the
label of a tab and the title of an admonition become a line of their own, and a link or an image leaves its text. A partial
stands where its tag is.
"""

import html
import json
import re
from collections.abc import Callable
from dataclasses import dataclass

MATH_FENCE = "`" * 10
"""Fences a displayed formula, in which Markdown would find headings and lists."""

MARK = "\ufdd0"
"""Stands in a heading where a tag was: without it the blank beside the tag would go, which counts in the anchor."""

HIDDEN = re.compile("\ufdd1([^\ufdd2]*)\ufdd2")
"""What an expression in a heading says, which its readers do not see, but which counts in the anchor."""

_INTERNAL = re.compile("[\ufdd0-\ufdef]")

_CONTAINER = r"(?P<prefix>[ \t]*+(?:(?:>|[-*+]|[0-9]{1,9}[.)])[ \t]++|>)*+[ \t]*+)"
_FENCE = re.compile("^" + _CONTAINER + r"(?P<fence>`{3,}(?=[^`\n]*$)|~{3,})(?P<info>[^\n]*)$", re.MULTILINE)
_MATH = re.compile("^" + _CONTAINER + r"\$\$[ \t]*$", re.MULTILINE)
_HEADING = re.compile(r"[ \t>]*#{1,6}(?=[ \t]|$)", re.MULTILINE)
_ESM = re.compile(
    r"import[ \t]++(?:['\"]|[^\n'\"]*\bfrom[ \t]++['\"]|(?:[\w$]+[ \t]*,[ \t]*)?\{[^\n'\"]*$)"
    r"|export[ \t]+(?:default|const|let|var|function|async|class|\{|\*)(?!\w)",
    re.MULTILINE,
)
_IMPORTED_PAGE = re.compile(
    r"^import[ \t]+(?P<name>[\w$]+)(?:[ \t]*,[ \t]*\{[^{}'\"]*\})?\s+from\s+(?P<quote>['\"])(?P<path>[^'\"\n]+\.mdx?)(?P=quote)",
    re.MULTILINE,
)
_ADMONITION = re.compile(
    "^" + _CONTAINER + r":{3,}[ \t]*(?P<kind>[A-Za-z][\w-]*)?[ \t]*(?:\[(?P<label>[^\n]*)\])?(?P<rest>[^\n]*)$",
    re.MULTILINE,
)
_DEFINITION = re.compile(
    r"^[ \t>]*+\[(?!\^)(?P<label>[^\]\n]{1,999})\]:[ \t]*+\n?[ \t]*+\S++(?:[ \t]++(?:\"[^\"\n]*\"|'[^'\n]*'|\([^)\n]*\)))?[ \t]*$",
    re.MULTILINE,
)
_FOOTNOTE = re.compile(r"^[ \t]*+\[\^[^\]\s]{1,99}\]:[ \t]*", re.MULTILINE)
_PLAIN = re.compile(r"[^\n`\\$<{\[!&]+")

_TAG = re.compile(r"<(?P<closing>/?)(?P<name>[A-Za-z][\w.:-]*)?")
_ATTRIBUTE = re.compile(
    r"\s*(?P<name>[A-Za-z_@:][\w.:-]*)(?:\s*=\s*(?:\"(?P<double>[^\"]*)\"|'(?P<single>[^']*)'|(?P<bare>[^\s\"'{}<>=`/]+)|(?=\{)))?"
)
_TAG_END = re.compile(r"\s*(?P<closed>/?)>")
_COMMENT = re.compile(r"<!--(?P<html>.*?)-->|\{\s*/\*(?P<mdx>.*?)\*/\s*\}", re.DOTALL)
_HEADING_ID = re.compile(r"\{#(?:[^\n](?!\{#|\}))*[^\n]\}(?=[ \t]*+#*+[ \t]*+$)", re.MULTILINE)
_STRING = re.compile(r"\{\s*(?:'([^'\n]*)'|\"([^\"\n]*)\"|`((?:[^`\\$]|\\.|\$(?!\{))*)`)\s*\}", re.DOTALL)
_HTML_HEADING = re.compile(
    r"[ \t]*<h(?P<level>[1-6])(?P<attributes>(?:\s[^<>]*)?)>(?P<text>[^\n]*?)</h(?P=level)>[ \t]*$", re.MULTILINE
)
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_MDX_CODE = "mdx-code-block"
"""The language of fenced text that is not code: translators are to leave it alone, but readers see what it does."""
_COMPONENT = re.compile(r"<([A-Z][\w.]*|[a-z]\w*\.[\w.]+)")
_TAB_VALUE = re.compile(r"\{[^{}]*\}")
_VALUE_OR_LABEL = re.compile(r"\b(label|value)\s*:\s*(?:'([^']*)'|\"([^\"]*)\")")

_UNREAD = frozenset({"script", "style", "svg", "iframe", "head", "Head", "template", "object"})
"""Elements whose content no reader reads."""
_INLINE = frozenset(
    {
        *("a", "abbr", "b", "bdi", "bdo", "cite", "code", "data", "del", "dfn", "em", "font", "i", "ins"),
        *("kbd", "mark", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup", "time", "tt"),
        *("u", "var", "wbr"),
    }
)
_BLOCK = frozenset(
    {
        *("address", "area", "article", "aside", "audio", "base", "blockquote", "body", "br", "button"),
        *("canvas", "caption", "center", "col", "colgroup", "dd", "details", "dialog", "div", "dl", "dt"),
        *("embed", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6"),
        *("header", "hr", "html", "img", "input", "label", "legend", "li", "link", "main", "map", "menu"),
        *("meta", "nav", "noscript", "ol", "optgroup", "option", "p", "param", "picture", "pre", "progress"),
        *("rp", "rt", "ruby", "section", "select", "source", "summary", "table", "tbody", "td", "textarea"),
        *("tfoot", "th", "thead", "title", "tr", "track", "ul", "video"),
    }
)

_MOST_WORK = 5
"""How many characters may be looked at in vain for each one of the page, before no more brackets and tags are looked for."""
_LEAST_WORK = 200_000
_MAX_LABEL_CHARS = 2_000
_MAX_EXPRESSION_CHARS = 100_000


@dataclass(frozen=True)
class _Tag:
    name: str
    closing: bool
    closed: bool
    attributes: dict[str, str]
    end: int


class _Work:
    """How much of a page may still be looked at more than once, so that no page takes quadratic time."""

    def __init__(self, text: str) -> None:
        self._left = _LEAST_WORK + _MOST_WORK * len(text)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left."""
        return self._left <= 0

    def spend(self, characters: int) -> None:
        """Note that so many characters have been looked at."""
        self._left -= characters


type ReadPartial = Callable[[str], str]
"""Returns the Markdown of the partial that an import names."""


@dataclass(frozen=True)
class _Partials:
    """The partials that a page imports."""

    read: ReadPartial
    imported: dict[str, str]
    """The path of each by the name of its tag."""


def to_markdown(text: str, *, is_mdx: bool, read_partial: ReadPartial = lambda _path: "") -> tuple[str, bool]:
    """Return the Markdown, and whether the page is MDX; its lines must end in line feeds.

    A page that need not be MDX, and that has neither imports nor components, counts as plain Markdown: there, four blanks make
    code, and braces stay.
    """
    text = _INTERNAL.sub("", text)
    prose = re.sub(r"`[^`\n]+`", "", _without_fences(text))
    closed = set(re.findall(r"</([\w.:-]+)\s*>", prose)) | set(re.findall(r"<([\w.:-]+)(?:\s[^<>]*)?/>", prose))
    is_mdx |= (
        _MDX_CODE in text
        or any(_ESM.match(line) for line in prose.split("\n"))
        or not closed.isdisjoint(_COMPONENT.findall(prose))
    )
    return _Reader(text, closed=closed, is_mdx=is_mdx, partials=_Partials(read_partial, {})).read(), is_mdx


def _without_fences(text: str) -> str:
    kept, position = [], 0
    while fence := _FENCE.search(text, position):
        kept.append(text[position : fence.start()])
        position = _end_of_fence(text, fence)
        if fence["info"].strip() == _MDX_CODE:
            kept.append(text[fence.end() : position])
    return "".join([*kept, text[position:]])


def _end_of_fence(text: str, fence: re.Match[str]) -> int:
    """Return where the fenced code ends: after the closing fence, or with the text."""
    marks = fence["fence"]
    closing = re.compile(rf"^[ \t>]*{re.escape(marks[0])}{{{len(marks)},}}[ \t]*$", re.MULTILINE)
    found = closing.search(text, min(fence.end() + 1, len(text)))
    return found.end() if found else len(text)


class _Reader:
    """Reads one page from its start to its end."""

    def __init__(  # noqa: PLR0913  # What a page and a part of it have in common.
        self,
        text: str,
        *,
        closed: set[str],
        is_mdx: bool,
        partials: _Partials,
        definitions: frozenset[str] | None = None,
        work: _Work | None = None,
    ) -> None:
        self._text = text
        self._work = work or _Work(text)
        self._closed = closed
        self._is_mdx = is_mdx
        self._partials = partials
        self._definitions = (
            frozenset(_label(found["label"]) for found in _DEFINITION.finditer(text))
            if definitions is None
            else definitions
        )
        self._position = 0
        self._paragraph_end = -1
        self._output: list[str] = []
        self._in_heading = False
        self._follows_blank_line = True
        self._line_is_blank = True
        """Whether there is nothing yet in the line that is being written."""
        self._literals = _Literals(text)
        self._tag_seen = 0
        """Up to where a tag has been looked for."""
        self._tabs: dict[str, str] = {}

    def read(self) -> str:
        """Return what remains of the text."""
        while self._position < len(self._text):
            written = len(self._output)
            self._start_line()
            self._read_line()
            self._follows_blank_line = not "".join(self._output[written:]).strip()
        return "".join(self._output)

    def read_inline(self) -> str:
        """Return what remains of a text within a line."""
        while self._position < len(self._text):
            self._read_line()
        return "".join(self._output)

    def _start_line(self) -> None:
        """Deal with what only the start of a line can begin."""
        text, start = self._text, self._position
        self._in_heading = _HEADING.match(text, start) is not None
        if fence := _FENCE.match(text, start):
            self._read_fence(fence)
        elif math := _MATH.match(text, start):
            self._read_math(math)
        elif self._is_mdx and self._follows_blank_line and _ESM.match(text, start):
            end = self._end_of_esm()
            code = text[start:end]
            self._partials.imported.update((found["name"], found["path"]) for found in _IMPORTED_PAGE.finditer(code))
            self._skip_to(end)
        elif (admonition := _ADMONITION.match(text, start)) and (admonition["kind"] or not admonition["rest"].strip()):
            self._skip_to(admonition.end(), self._title_of(admonition))
        elif definition := _DEFINITION.match(text, start):
            self._skip_to(definition.end())
        elif footnote := _FOOTNOTE.match(text, start):
            self._skip_to(footnote.end())
        elif heading := _HTML_HEADING.match(text, start):
            self._read_html_heading(heading)

    def _skip_to(self, end: int, instead: str = "") -> None:
        if instead:
            self._output.append(instead)
            _, line_end, line = instead.rpartition("\n")
            self._line_is_blank = (bool(line_end) or self._line_is_blank) and not line.strip(" \t>")
        self._position = end

    def _read_fence(self, fence: re.Match[str]) -> None:
        end = _end_of_fence(self._text, fence)
        code = self._text[self._position : end]
        if fence["info"].strip() == _MDX_CODE:
            code = self._reader_of("\n".join(code.split("\n")[1:-1])).read()
        self._skip_to(end, code)

    def _read_math(self, opening: re.Match[str]) -> None:
        closing = re.compile(r"^[ \t>]*\$\$[ \t]*$", re.MULTILINE).search(
            self._text, min(opening.end() + 1, len(self._text))
        )
        if closing is None:
            self._skip_to(opening.end(), opening[0])
            return
        prefix = opening["prefix"]
        formula = self._text[opening.end() : closing.start()]
        self._skip_to(closing.end(), f"{prefix}{MATH_FENCE}{formula}{_indent(prefix)}{MATH_FENCE}")

    def _end_of_esm(self) -> int:
        """Return the end of the imports and exports that begin here: a blank line outside of brackets."""
        position, depth = self._position, 0
        first_blank = None
        blank = re.compile(r"\n[ ]*+(?:\n|$)")
        while position < len(self._text):
            character = self._text[position]
            if character == "\n" and blank.match(self._text, position):
                if depth <= 0:
                    return position
                first_blank = first_blank or position
                if self._work.is_done:
                    return first_blank
            end = self._literals.end(position, len(self._text))
            depth += (character in "({[") - (character in ")}]") if end == position + 1 else 0
            position = end
        self._work.spend(len(self._text) - self._position)
        return len(self._text) if depth <= 0 else first_blank or len(self._text)

    def _title_of(self, admonition: re.Match[str]) -> str:
        title = admonition["label"] or ""
        if not title and admonition["kind"]:
            title = re.sub(r"\{[^{}]*\}\s*$", "", admonition["rest"]).strip()
        prefix = admonition["prefix"]
        indent = _indent(prefix).rstrip()
        return f"{indent}\n{prefix}**{self._inline(title)}**\n{indent}" if title else indent

    def _read_html_heading(self, heading: re.Match[str]) -> None:
        """Docusaurus gives such a heading no anchor but the one that it has itself."""
        anchor = re.search(r"\bid\s*=\s*[\"']([^\"'\s]+)[\"']", heading["attributes"])
        text = self._inline(heading["text"]).strip()
        if anchor:
            self._skip_to(heading.end(), f"\n{'#' * int(heading['level'])} {text} {{#{anchor[1]}}}\n")
        else:
            self._skip_to(heading.end(), f"\n**{text}**\n" if text else "")

    def _inline(self, text: str) -> str:
        return self._reader_of(text).read_inline()

    def _reader_of(self, text: str) -> "_Reader":
        return _Reader(
            text,
            closed=self._closed,
            is_mdx=self._is_mdx,
            partials=self._partials,
            definitions=self._definitions,
            work=self._work,
        )

    def _read_line(self) -> None:
        """Read to the end of the line, or of what begins in it."""
        readers = {
            "`": self._read_code,
            "\\": self._read_escape,
            "$": self._read_formula,
            "<": self._read_tag,
            "{": self._read_expression,
            "[": self._read_link,
            "!": self._read_image,
            "&": self._read_entity,
        }
        while self._position < len(self._text):
            if plain := _PLAIN.match(self._text, self._position):
                self._skip_to(plain.end(), plain[0])
                continue
            character = self._text[self._position]
            if character == "\n":
                self._skip_to(self._position + 1, "\n")
                return
            if not readers[character]():
                self._skip_to(self._position + 1, character)

    def _end_of_paragraph(self) -> int:
        if self._position > self._paragraph_end:
            end = re.compile(r"\n[ \t>]*\n").search(self._text, self._position)
            self._paragraph_end = end.start() if end else len(self._text)
        return self._paragraph_end

    def _read_code(self) -> bool:
        opened = self._position
        while self._text.startswith("`", opened):
            opened += 1
        marks = self._text[self._position : opened]
        closing = re.compile(f"(?<!`){marks}(?!`)").search(self._text, opened, self._end_of_paragraph())
        end = closing.end() if closing else opened
        self._skip_to(end, self._text[self._position : end])
        return True

    def _read_escape(self) -> bool:
        """Undo the escapes that would only be in the way; those that keep Markdown from seeing a block stay."""
        character = self._text[self._position + 1 : self._position + 2]
        in_the_way = "{}<" if self._in_heading or self._line_is_blank else "{}<_>~'\""
        if character and character in in_the_way:
            self._skip_to(self._position + 2, character)
        elif character and character != "\n":
            self._skip_to(self._position + 2, "\\" + character)
        else:
            return False
        return True

    def _read_formula(self) -> bool:
        """Keep a formula as it is; an amount of money is none."""
        formula = re.compile(r"\$\$(?:[^$\\]|\\.)+\$\$|\$(?![\s$])(?:[^$\\]|\\.)*?(?<!\s)\$(?![0-9$])", re.DOTALL)
        found = formula.match(self._text, self._position, self._end_of_paragraph())
        if found:
            self._skip_to(found.end(), found[0])
        return found is not None

    def _read_entity(self) -> bool:
        found = _ENTITY.match(self._text, self._position)
        if found is None or self._in_heading:
            return False
        self._skip_to(found.end(), html.unescape(found[0]).replace("\xa0", " "))
        return True

    def _read_tag(self) -> bool:
        if comment := self._comment():
            self._skip_to(comment.end(), MARK if self._in_heading else "")
            return True
        tag = self._tag_at(self._position)
        if tag is None or not self._is_tag(tag):
            return False
        if tag.name in self._partials.imported and not tag.closing and not self._in_heading:
            partial = self._partials.read(self._partials.imported[tag.name]).strip()
            self._skip_to(tag.end, f"\n\n{partial}\n\n" if self._line_is_blank else partial)
            return True
        end = tag.end
        if tag.name in _UNREAD and not tag.closing and not tag.closed:
            closing = re.compile(rf"</{tag.name}\s*>").search(self._text, tag.end)
            end = closing.end() if closing else tag.end
        self._skip_to(end, self._instead_of(tag))
        return True

    def _comment(self) -> re.Match[str] | None:
        if self._work.is_done:
            return None
        if not self._text.startswith(("<!--", "{"), self._position):
            return None
        found = _COMMENT.match(self._text, self._position)
        if found is None and re.compile(r"<!--|\{\s*/\*").match(self._text, self._position):
            self._work.spend(len(self._text) - self._position)
        return found

    def _is_tag(self, tag: _Tag) -> bool:
        if not tag.name:
            return self._is_mdx
        return (
            tag.name in _INLINE or tag.name in _BLOCK or tag.name in _UNREAD or tag.closed or tag.name in self._closed
        )

    def _tag_at(self, start: int) -> _Tag | None:
        opening = _TAG.match(self._text, start)
        if opening is None or self._work.is_done:
            return None
        tag = self._tag_from(opening)
        if tag is None:
            self._work.spend(self._tag_seen - start)
        return tag

    def _tag_from(self, opening: re.Match[str]) -> _Tag | None:
        position, attributes = opening.end(), dict[str, str]()
        while not (end := _TAG_END.match(self._text, position)):
            self._tag_seen = position
            if attribute := _ATTRIBUTE.match(self._text, position):
                position = attribute.end()
                value = attribute["double"] or attribute["single"] or attribute["bare"] or ""
                if attribute[0].rstrip().endswith("="):
                    braces = self._end_of_braces(position)
                    if braces is None:
                        return None
                    value, position = self._text[position:braces], braces
                attributes[attribute["name"]] = value
            elif spread := re.compile(r"\s*(?=\{)").match(self._text, position):
                braces = self._end_of_braces(spread.end())
                if braces is None:
                    return None
                position = braces
            else:
                return None
        if not opening["name"] and end.end() > opening.end() + 1:
            return None  # Only a fragment has no name, and it has nothing else either.
        return _Tag(opening["name"] or "", bool(opening["closing"]), bool(end["closed"]), attributes, end.end())

    def _instead_of(self, tag: _Tag) -> str:
        if self._in_heading:
            return MARK
        if tag.name == "Tabs":
            self._note_tabs(tag.attributes.get("values", ""))
        at_start = self._line_is_blank
        if not tag.closing and (title := self._title_in(tag)):
            return f"\n\n**{title}**\n\n" if at_start else f" {title} "
        # What follows a tag in its line begins no block.
        mark = MARK * self._text.startswith("#", tag.end)
        if tag.name in {"TabItem", "details", "summary"}:
            return f"\n\n{mark}" if at_start or tag.closing else " "
        if tag.name in _BLOCK:
            alt = tag.attributes.get("alt", "")
            if at_start:
                return "- " if tag.name == "li" and not tag.closing else mark
            return f" {alt} " if alt else " "
        return mark if at_start else ""

    def _note_tabs(self, values: str) -> None:
        """Remember the labels of tabs that are listed in one place."""
        for entry in _TAB_VALUE.findall(values[1:]):
            found = {name: single or double for name, single, double in _VALUE_OR_LABEL.findall(entry)}
            if len(found) > 1:
                self._tabs[found["value"]] = found["label"]

    def _title_in(self, tag: _Tag) -> str:
        names = {"TabItem": ("label", "value"), "Admonition": ("title",), "Details": ("summary",)}.get(tag.name, ())
        for name in names:
            value = tag.attributes.get(name, "")
            value = _string_in(value) if value.startswith("{") else html.unescape(value)
            if value:
                return self._tabs.get(value, value) if name == "value" else value
        return ""

    def _read_expression(self) -> bool:
        start = self._position
        if self._in_heading and (found := _HEADING_ID.match(self._text, start)):
            self._skip_to(found.end(), found[0])
            return True
        if comment := self._comment():
            anchor = (comment["mdx"].split() or [""])[0]
            if self._in_heading and not anchor.startswith("#"):
                self._skip_to(comment.end(), _hidden(comment[0][1:-1]))
            else:
                self._skip_to(comment.end(), f"{{{anchor}}}" if self._in_heading else "")
            return True
        if not self._is_mdx:
            return False
        end = self._end_of_braces(start)
        if end is None:
            return False
        expression = self._text[start:end]
        text = _string_in(expression)
        self._skip_to(end, _hidden(expression[1:-1]) if self._in_heading and not text else text)
        return True

    def _end_of_braces(self, start: int) -> int | None:
        """Return the position after the brace that closes this one, or None."""
        if self._work.is_done:
            return None
        position, depth = start, 0
        limit = min(len(self._text), start + _MAX_EXPRESSION_CHARS)
        while position < limit:
            character = self._text[position]
            end = self._literals.end(position, limit)
            if end == position + 1:
                depth += (character == "{") - (character == "}")
                if depth == 0:
                    self._work.spend(end - start)
                    return end
            position = end
        self._work.spend(limit - start)
        return None

    def _read_link(self) -> bool:
        """Leave a link's text; a footnote's mark goes."""
        footnote = re.compile(r"\[\^[^\]\s]{1,99}\]").match(self._text, self._position)
        if footnote:
            self._skip_to(footnote.end())
            return True
        found = self._link_at(self._position)
        if found is None:
            return False
        text, end = found
        self._skip_to(end, self._inline(text))
        return True

    def _read_image(self) -> bool:
        if not self._text.startswith("![", self._position):
            return False
        found = self._link_at(self._position + 1)
        if found is None:
            return False
        text, end = found
        self._skip_to(end, self._inline(text))
        return True

    def _link_at(self, start: int) -> tuple[str, int] | None:
        """Return the text of the link that begins here, and where the link ends."""
        closing = self._end_of_label(start)
        if closing is None:
            return None
        label = self._text[start + 1 : closing - 1]
        target = re.compile(
            r"\(\s*(?:<[^<>\n]*>|(?:[^\s()\\]|\\.|\((?:[^\s()\\]|\\.|\([^\s()]*\))*\))*)"
            r"(?:\s+(?:\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|\((?:[^()\\]|\\.)*\)))?\s*\)"
        ).match(self._text, closing)
        if target:
            return label, target.end()
        reference = re.compile(r"\[([^\[\]\n]*)\]").match(self._text, closing)
        if reference and _label(reference[1] or label) in self._definitions:
            return label, reference.end()
        if _label(label) in self._definitions:
            return label, closing
        return None

    def _end_of_label(self, start: int) -> int | None:
        """Return the position after the bracket that closes this one, or None."""
        if self._work.is_done:
            return None
        limit = min(self._end_of_paragraph(), start + _MAX_LABEL_CHARS)
        depth, position = 0, start
        while position < limit:
            character = self._text[position]
            if character == "\\":
                position += 1
            elif character == "`":
                span = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)", re.DOTALL).match(self._text, position, limit)
                position = span.end() - 1 if span else position
            else:
                depth += (character == "[") - (character == "]")
                if depth == 0:
                    self._work.spend(position - start)
                    return position + 1
            position += 1
        self._work.spend(limit - start)
        return None


def _hidden(text: str) -> str:
    return f"\ufdd1{text}\ufdd2"


def _indent(prefix: str) -> str:
    """Return what the lines after one that begins so begin with, in the same list item or quotation."""
    return re.sub("[^>]", " ", prefix)


def _label(text: str) -> str:
    return " ".join(text.split()).casefold()


def _string_in(expression: str) -> str:
    """Return the text of an expression that is nothing but a string; others give none."""
    found = _STRING.fullmatch(expression)
    if found is None:
        return ""
    text = next(group for group in found.groups() if group is not None)
    try:
        return str(json.loads(f'"{text}"')) if "\n" not in text and '"' not in text else text
    except ValueError:
        return text


class _Literals:
    """Finds where JavaScript's strings and comments end; what has been looked for in vain is not looked for again."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._open_until: dict[str, int] = {}
        """Up to where there is no end for what begins with these characters."""

    def end(self, start: int, limit: int) -> int:
        """Return the end of the string or comment that begins here, or else the next position."""
        text = self._text
        character = text[start]
        if character in "'\"":
            # An apostrophe in the text between tags looks like the start of a string, but none ends in its line.
            return self._closed(character, rf"{character}(?:[^{character}\\\n]|\\.)*+{character}", start, limit)
        if character == "`":
            return self._closed(character, r"`(?:[^`\\]|\\.)*+`", start, limit)
        if text.startswith("/*", start):
            return self._closed("/*", r"/\*.*?\*/", start, limit)
        if text.startswith("//", start) and text[start - 1 : start] != ":":
            line_end = text.find("\n", start, limit)
            return line_end if line_end >= 0 else limit
        return start + 1

    def _closed(self, opening: str, pattern: str, start: int, limit: int) -> int:
        if start < self._open_until.get(opening, 0):
            return start + 1
        flags = 0 if opening in "'\"" else re.DOTALL
        found = re.compile(pattern, flags).match(self._text, start, limit)
        if found:
            return found.end()
        line_end = self._text.find("\n", start, limit) if opening in "'\"" else -1
        self._open_until[opening] = line_end if line_end >= 0 else limit
        return start + 1
