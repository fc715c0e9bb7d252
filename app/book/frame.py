"""What of a page only leads to other places, told by its links: its table of contents, and the ways to other pages."""

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import islice, takewhile
from urllib.parse import unquote

from selectolax.lexbor import LexborNode

from app.book.nodes import children, following, preceding

MARK = "data-only-leads-elsewhere"
"""The attribute that tells of an element that it is no part of what the page says."""

_INLINE = frozenset({"a", "abbr", "b", "em", "font", "i", "img", "small", "span", "strong", "sub", "sup", "svg", "u"})
_PAGES = frozenset({"article", "body", "main", "section"})
_SAYING = frozenset({"audio", "blockquote", "code", "dd", "dl", "form", "h1", "h2", "iframe", "math", "pre", "video"})
"""Elements that say something, whatever they lead to."""
_CONTENTS = frozenset(
    {
        *("contents", "jumpto", "inthisarticle", "inthispage", "inthischapter", "inthissection", "onthispage"),
        *("outline", "pagecontents", "tableofcontents", "toc"),
        *("aufdieserseite", "inhalt", "inhaltsverzeichnis", "surcettepage", "sommaire", "tabledesmatières"),
        *("enestapágina", "contenido", "contenidos", "índice", "tabladecontenidos", "nestapágina"),
        *("conteúdo", "sumário"),
        *("indice", "inquestapagina", "sommario", "içindekiler", "busayfada", "inhoud"),
        *("inhoudsopgave", "opdezepagina"),
        *("содержание", "оглавление", "наэтойстранице", "зміст", "spistreści", "natejstronie"),
        *("目录", "目錄", "本页目录", "本頁目錄", "本页内容", "本頁內容", "此页内容", "目次", "このページの内容"),
        *("목차", "이페이지의내용"),
        *("فہرست", "فہرستمضامین", "اسصفحےپر", "المحتويات", "فيهذهالصفحة", "فهرست", "دراینصفحه"),
        *("".join(filter(str.isalpha, label)) for label in ("विषय-सूची", "इस पृष्ठ पर", "সূচিপত্র", "এই পাতায়")),
    }
)
"""What tables of contents are called, with nothing but their letters."""
_LABEL_CHARS = 40
_SIBLINGS = 8
"""How many elements and texts beside another one are looked at."""
_LABEL_LEVELS = 3
"""How far from its list what a table of contents is called may stand."""
_TOPS = frozenset({"", "top", "_top"})
_NUMBER = re.compile(r"^[\s0-9.]+")
_SIGNS = frozenset("¶#§∞◆⚓🔗")
_VARIANT = "\N{VARIATION SELECTOR-16}"
_DIRECTIONS = frozenset({"next", "prev", "previous", "up", "top", "newer", "older"})
_DIRECTED = frozenset(
    {
        *("article", "back", "chapter", "contents", "entries", "entry", "home", "index", "main", "of", "page", "part"),
        *("post", "posts", "section", "table", "the", "to", "topic"),
    }
)
_DEEDS = frozenset({"edit", "improve", "report", "show", "suggest", "view"})
_DONE = frozenset(
    {
        *("a", "an", "bitbucket", "bug", "code", "changes", "edits", "file", "github", "gitlab", "in", "issue"),
        "markdown",
        *("on", "page", "problem", "raw", "source", "the", "this"),
    }
)
_RELATIONS = frozenset({"next", "prev", "previous", "up"})
_KEYS = frozenset({"n", "p", "u"})
"""The keys that DocBook and Texinfo give to links to the pages around."""
_WAY_CHARS = 400


def mark_frame(body: LexborNode, anchors: Collection[str]) -> None:
    """Mark what only leads elsewhere; `anchors` are those of the page."""
    links = body.css("a[href]")
    for node in [*_contents(body, anchors), *_ways(links), *filter(_is_permalink, links)]:
        node.attrs[MARK] = ""


def _contents(body: LexborNode, anchors: Collection[str]) -> Iterator[LexborNode]:
    """Yield the lists that only lead to places in this page, if these are headings or the list is called so; and how it is called."""
    headings = {_title(node.text()) for node in body.css("h1, h2, h3, h4, h5, h6, [role=heading]")}
    inside = set[int]()
    for node in body.css("ul, ol, dl, menu"):
        links = [] if node.mem_id in inside else node.css("a[href]")
        if not links or not all(_leads_inside(link, anchors) for link in links):
            continue
        if _letters(node.text()) != "".join(_letters(link.text()) for link in links):
            continue
        label = _label_of(node)
        if label is not None or (len(links) > 1 and all(_title(link.text()) in headings for link in links)):
            inside |= {inner.mem_id for inner in node.css("ul, ol, dl, menu")}
            yield from (node, label) if label is not None else (node,)


def _leads_inside(link: LexborNode, anchors: Collection[str]) -> bool:
    _, hash_sign, fragment = (link.attributes.get("href") or "").partition("#")
    return bool(hash_sign) and (fragment in _TOPS or fragment in anchors or unquote(fragment) in anchors)


def _label_of(contents: LexborNode) -> LexborNode | None:
    """Return what stands before a list and calls it contents."""
    node: LexborNode | None = contents
    for _ in range(_LABEL_LEVELS):
        if node is None:
            return None
        for before in islice(preceding(node), _SIBLINGS):
            text = (before.text_content or "") if before.is_text_node else before.text()
            if _letters(text):
                is_label = len(text.strip()) <= _LABEL_CHARS and _letters(text) in _CONTENTS
                return before if is_label and before.is_element_node else None
        node = node.parent
    return None


def _ways(links: Sequence[LexborNode]) -> Iterator[LexborNode]:
    """Yield what holds nothing but links to the pages around, and to what can be done with this one."""
    seen = set[int]()
    for link in filter(_is_way, links):
        block = _block_of(link)
        if block is None:  # It stands among the blocks of a page.
            if all(map(_leads_elsewhere, _beside(link))):
                yield link
        elif block.mem_id not in seen:
            seen.add(block.mem_id)
            if len(block.text()) <= _WAY_CHARS and all(map(_leads_elsewhere, children(block))):
                yield block


def _is_way(link: LexborNode) -> bool:
    """Whether a link leads to a page around, or to what can be done with this one."""
    attributes = link.attributes
    relations = (attributes.get("rel") or "").lower().split()
    if not _RELATIONS.isdisjoint(relations) or attributes.get("accesskey") in _KEYS:
        return True
    label = link.text()
    if not _letters(label):
        label = " ".join(image.attributes.get("alt") or "" for image in link.css("img[alt]"))
    if len(label) > _LABEL_CHARS:
        return False
    words = _words(label)
    is_direction = not words.isdisjoint(_DIRECTIONS) and words <= _DIRECTIONS | _DIRECTED
    return is_direction or (len(words) > 1 and not words.isdisjoint(_DEEDS) and words <= _DEEDS | _DONE)


def _block_of(link: LexborNode) -> LexborNode | None:
    """Return the smallest block that a link is in, unless that is a whole page or a part of one."""
    node = link.parent
    while node is not None and node.tag in _INLINE:
        node = node.parent
    return None if node is None or node.tag in _PAGES else node


def _leads_elsewhere(node: LexborNode) -> bool:
    """Whether this is a link to a page around or what names it, and nothing else."""
    if node.is_text_node:
        return _words(node.text_content or "") <= _DIRECTIONS | _DIRECTED
    if not node.is_element_node or node.tag in {"br", "hr"}:
        return True
    if node.tag == "a":
        return _is_way(node) or _words(node.text()) <= _DIRECTIONS | _DIRECTED
    return node.tag not in _SAYING and all(map(_leads_elsewhere, children(node)))


def _beside(link: LexborNode) -> Iterator[LexborNode]:
    """Yield what stands near a link in the same line."""
    for side in (preceding(link), following(link)):
        near = islice(side, _SIBLINGS)
        yield from takewhile(lambda node: not node.is_element_node or node.tag in _INLINE, near)


def _is_permalink(link: LexborNode) -> bool:
    """Whether a link shows nothing but a sign for the place that it leads to."""
    label = "".join(link.text().split()).replace(_VARIANT, "")
    return len(label) == 1 and label in _SIGNS and "#" in (link.attributes.get("href") or "")


def _title(text: str) -> str:
    return _alphanumeric(_NUMBER.sub("", text)) or _alphanumeric(text)


def _alphanumeric(text: str) -> str:
    return "".join(filter(str.isalnum, text)).lower()


def _letters(text: str) -> str:
    return "".join(filter(str.isalpha, text)).lower()


def _words(text: str) -> set[str]:
    return set(re.findall(r"[^\W_]+", text.lower()))
