"""From the HTML of a page to its sections: what is the page and not its frame, as Markdown, with the anchors that the page has."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from selectolax.lexbor import LexborHTMLParser, LexborNode

from app.book import formulas
from app.book.chunks import Outline, Section
from app.book.frame import MARK, mark_frame
from app.book.nodes import children, elements, following, preceding

READER = 4
"""Grows whenever pages are read in another way, so that pages are fetched again that have not changed."""

_BREAK = "\ufdd3"
"""Stands for the end of a line until blanks are joined."""

_HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
_BLOCKS = frozenset(
    {
        *("address", "article", "aside", "body", "center", "dd", "details", "div", "dl", "fieldset"),
        *("figcaption", "figure"),
        *("footer", "form", "header", "hgroup", "hr", "legend", "li", "main", "menu", "ol", "p", "section"),
        *("tbody", "td"),
        *("tfoot", "th", "thead", "tr", "ul", "video"),
    }
)
_UNREAD = frozenset(
    {
        *("script", "style", "noscript", "template", "svg", "iframe", "object", "embed", "canvas", "head"),
        *("nav", "dialog"),
        *("input", "select", "textarea", "audio", "source", "track", "datalist", "option", "search", "rp"),
    }
)
_FRAME = frozenset(
    {
        # Links to the heading itself, and text for screen readers only.
        *("headerlink", "header-anchor", "hash-link", "anchor-link", "subheading-anchor", "sl-anchor-link"),
        *("anchorjs-link", "sr-only", "visually-hidden", "screen-reader-text", "screenreader-only", "skip-link"),
        *("skip-to-content", "skip-to-content-link"),
        # Tables of contents.
        *("toc", "table-of-contents", "theme-doc-toc-mobile", "theme-doc-toc-desktop", "on-this-page", "page-toc"),
        *("bd-toc", "bd-sidebar", "bd-sidebar-secondary", "VPDocAside", "VPLocalNav", "book-toc", "toc-drawer"),
        # The way to other pages.
        *("breadcrumb", "breadcrumbs", "wy-breadcrumbs", "theme-doc-breadcrumbs", "rst-footer-buttons", "pagination"),
        *("pagination-nav", "pagination-links", "pager", "page-navigation", "prev-next-area", "prev-next-footer"),
        *("nav-chapters", "mobile-nav-chapters", "nav-wrapper", "navheader", "navfooter", "sphinxsidebar", "related"),
        *("back-to-top", "bd-header-article", "bd-footer-article", "VPDocFooter", "navigation-next", "navigation-prev"),
        *("footer", "site-footer", "page-footer"),
        # What can be done with the page or with its code.
        *("md-content__button", "md-source-file", "md-feedback", "theme-edit-this-page", "theme-doc-footer"),
        *("theme-doc-version-badge", "theme-doc-version-banner", "edit-this-page", "view-this-page"),
        *("edit-page", "edit-link", "last-updated"),
        *("feedback-toolbar", "content-icon-container", "article-header-buttons", "copybtn", "copy-button"),
        *("code-copy-button", "clipboard-button", "viewcode-link", "viewcode-back", "giscus", "utterances"),
        # Numbers of lines, hidden lines of Rust, and the way back from a footnote.
        *("linenos", "linenodiv", "lineno", "line-numbers", "line-numbers-wrapper", "linenumber", "ln", "lnt"),
        *("hljs-ln-numbers", "gutter", "boring", "footnote-ref", "footnote-reference", "footnote-backref"),
        *("footnote-back", "fn-backref", "fn-bracket", "data-footnote-backref", "reversefootnote", "backrefs"),
        "MathJax_Preview",
        # What nobody prints, or nobody is to find, and what readers said.
        *("noprint", "no-print", "d-print-none", "hidden-print", "robots-nocontent", "mw-editsection", "mw-jump-link"),
        *("mw-cite-backlink", "printfooter", "catlinks", "comments-area", "comment-respond", "wp-block-comments"),
    }
)
_FRAME_IDS = frozenset(
    {
        *("pagination", "table-of-contents", "feedback-toolbar", "toc", "TOC", "disqus_thread"),
        "quarto-margin-sidebar",
        *("titlearea", "side-nav", "nav-path", "footer"),
    }
)
_FRAME_ROLES = frozenset({"navigation", "search", "doc-toc", "doc-backlink", "contentinfo", "banner", "dialog", "menu"})
_MATH = frozenset({"math", "arithmatex"})
_TITLE_CLASS = re.compile(
    r"(?:admonition|callout|custom-block|aside|alert|blockquote-tag|card|hint|topic)[-_]*(?:container[-_])?(?:title|heading|header)"
    r"(?:[-_](?:text|container|\w{4,5}))?$",
    re.IGNORECASE,
)
_ADMONITIONS = frozenset(
    {
        *("admonition", "alert", "attention", "callout", "caution", "danger", "error", "example", "hint", "important"),
        *("info", "note", "notice", "success", "tip", "warning"),
    }
)
_LINE = frozenset({"line", "token-line", "code-line", "ec-line", "highlight-line", "view-line", "code__line"})
_LANGUAGES = (
    re.compile(r"(?:^|[\s-])lang(?:uage)?[-_]([\w+#.-]+)"),
    re.compile(r"(?:lang(?:uage)?|highlight|highlight-source|sourceCode|brush:)[-_ ]\s?([\w+#.-]+)"),
)
_NO_LANGUAGE = frozenset({"default", "none", "text", "plaintext", "txt", "highlight", "source", "hljs"})
_TAB_LISTS = frozenset({"tabbed-labels", "rp-tabs__label"})
_TAB_PANELS = frozenset({"tabbed-block", "rp-tabs__content__item"})
_SECTION_CLASS = re.compile(r"section|level[1-6]|sect[1-6]|chapter|appendix|preface")
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff\ufdd0-\ufdd2]")
_REFRESH = re.compile(r"^\s*([0-9]{0,6})[0-9.]*\s*[;,]\s*url\s*=", re.IGNORECASE)
_NOSCRIPT = re.compile(r"<noscript\b|(</noscript\b[^>]{0,99}>)", re.IGNORECASE | re.ASCII)
_SLOT = re.compile(r"<template\s+(?:#|v-slot:)(?:title|label)\s*>([^<>]{1,200})</template>", re.IGNORECASE | re.ASCII)
"""What a component shows as its title, if the page has the component itself."""
_QUOTING = re.compile("<script|-->", re.IGNORECASE)
"""What is between two tags of which a script or a comment holds the first."""
_AT_ONCE_SECONDS = 10
"""A page that leads to another one later than this is read by people meanwhile."""
_VALUED_DIRECTIVES = frozenset({"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"})
_PASSWORD_CHARS = 600
"""A page with no more text than this that asks for a password is the way in, and no page of the book."""
_WAITING_CHARS = 100
_NOTE_MARK = re.compile(
    r"[\[(]?(?:note |fn )?(?:[0-9]{1,4}|[ivxlc]{1,6}|[a-z]|[*\u2020\u2021\u00a7\u00b6#]{1,4})[\])]?", re.IGNORECASE
)
"""How the marks of footnotes look."""
_SITE_NAMES = (
    ('meta[property="og:site_name"]', "content"),
    ('meta[name="application-name"]', "content"),
    ('meta[name="apple-mobile-web-app-title"]', "content"),
    ('head > link[rel="home"], head > link[rel="start"], head > link[rel="top"]', "title"),
)
_NO_SITE_NAMES = frozenset({"contents", "home", "index", "start", "table of contents", "top", "welcome"})
_IS_LETTERS = re.compile(r"[^\W_]")
_HOLDERS = frozenset({"article", "center", "div", "form", "main", "section", "tbody", "td", "tr"})
_BANNERS = frozenset({"header", "masthead", "banner", "site-header", "navbar", "topbar"})
_LINKED_SHARE = 0.7
"""An aside of which this share is links is a way to other pages, and no part of this one."""
_MAIN_SHARE = 0.6
"""How much of a page's text what is taken for its main part must hold."""
_SEVERAL = 2
_LONG_LIST_CHARS = 1_500
_LONGEST_POWER = 12
_MOST_COLUMNS = 50
_MOST_ROWS = 10_000
"""What a cell spans that spans all rows to come."""
_REPEATED_CHARS = 20_000
"""How much of a table may be cells that stand again where they reach into another row or column."""
_LANGUAGE_LEVELS = 8
"""How far around a listing an element may be that names its language: listings can stand in tables."""


@dataclass(frozen=True)
class Article:
    """What a page says, and what it says of itself."""

    heading: str | None
    """Its first heading of level 1."""
    full_title: str
    """What a browser shows as its title, which often has the name of the site too."""
    language: str | None
    canonical: str | None
    """The address that it says is its own."""
    refusal: str | None
    """Why it is not to be read, in words that follow its name."""
    sections: list[Section]
    anchors: frozenset[str]
    """Everything in it that an address can point to."""
    links: frozenset[str]
    """Where the links of the whole page lead, frame included, as they are written or as its `base` has them."""
    digest: str
    """What identifies its text and its headings."""
    site_name: str | None = None
    references: frozenset[str] = frozenset()
    """Where the links of the article itself lead."""
    repeated: tuple[str, ...] = ()
    """The ids of headings that something before them has too, so that no address leads to these headings."""

    @property
    def said(self) -> dict[str, str]:
        """What the page says of itself and its site, as far as it does: `language`, `site` and `title`."""
        said = {"language": self.language, "site": self.site_name, "title": self.full_title}
        return {name: value for name, value in said.items() if value}


def read_article(html: str) -> Article:
    """Return what the page says; its sections are empty if it says nothing. Raises RecursionError if it is nested too deeply."""
    tree = LexborHTMLParser(_with_scripts(html))
    root = tree.root
    body = tree.body
    if root is None or body is None:
        links = frozenset() if root is None else _links([root], None)
        return Article(None, "", None, None, None, [], frozenset(), links, "")
    anchors = _anchors(root)
    mark_frame(body, anchors)
    _unfold(body, anchors)
    full_title = _full_title(root)
    parts = _parts_in(body)
    reader = _Reader(anchors, _title_before(parts, body, full_title))
    for part in parts:
        reader.read(part)
    outline = reader.outline
    heading = outline.title or _heading_before(body, parts[0])
    text = "\n".join(f"{kind} {block}" for section in outline.sections for kind, block in section.blocks)
    told = [heading, *(" ".join(section.headings) for section in outline.sections), text]
    base = _attribute(root, "base[href]", "href")
    canonical = _attribute(root, 'link[rel~="canonical"]', "href")
    return Article(
        heading=heading,
        full_title=full_title,
        language=_language_of_page(root, body),
        canonical=_based(base, canonical) if canonical else None,
        refusal=_refusal(root) or _refusal_of_form(body, text) or _refusal_of_scripts(root, body, text),
        sections=outline.sections if text else [],
        anchors=frozenset(anchors),
        links=_links([root], base),
        digest=hashlib.sha256("\n".join(map(str, told)).encode()).hexdigest(),
        site_name=_site_name(root),
        references=_links(parts, base),
        repeated=tuple(reader.repeated),
    )


def _links(nodes: Sequence[LexborNode], base: str | None) -> frozenset[str]:
    """Return where the links in these elements lead, and what their frames show."""
    links = (link.attributes for node in nodes for link in node.css("a[href], area[href], frame[src]"))
    hrefs = (attributes.get("href") or attributes.get("src") for attributes in links)
    return frozenset(_based(base, href.strip()) for href in hrefs if href)


def _full_title(root: LexborNode) -> str:
    title = root.css_first("head > title")
    return _joined(title.text()) if title is not None else ""


def _title_before(parts: Sequence[LexborNode], body: LexborNode, full_title: str) -> LexborNode | None:
    """Return what says the same as a part of the page's title where no heading of the main part does.

    It is no heading itself, or one outside of a main part that has several of the first level.
    """
    inside = [heading for part in parts for heading in part.css("h1")]
    if any(_is_in_title(_joined(heading.text()), full_title) for heading in inside):
        return None
    found = body.css_first("div.title, p.title, span.title, h1, h2, h3")
    if found is None or (found.tag in _HEADINGS and (found.tag != "h1" or len(inside) < _SEVERAL)):
        return None
    # What the site is called is a link to its first page, or stands on top.
    if _is_in_banner(found) or found.css_first("a") is not None or _is_linked_or_frame(found):
        return None
    return found if _is_in_title(_joined(found.text()), full_title) else None


def _is_linked_or_frame(node: LexborNode) -> bool:
    above: LexborNode | None = node
    while above is not None and above.tag != "body":
        if above.tag == "a" or _is_frame(above):
            return True
        above = above.parent
    return False


def _is_in_title(text: str, full_title: str) -> bool:
    return bool(text) and re.search(rf"(?:^|\W\s){re.escape(text)}(?:$|\s\W)", full_title) is not None


def _language_of_page(*nodes: LexborNode) -> str | None:
    """Return the language that the page, or else its body, says it is in."""
    attributes = (node.attributes for node in nodes)
    said = ((found.get("lang") or found.get("xml:lang") or "").strip() for found in attributes)
    return next(filter(None, said), None)


def _site_name(root: LexborNode) -> str | None:
    """Return what a page says its site is called, or what it calls its first page."""
    for selector, attribute in _SITE_NAMES:
        name = _attribute(root, selector, attribute)
        if name and name.lower() not in _NO_SITE_NAMES:
            return _joined(name)
    return None


def _based(base: str | None, href: str) -> str:
    """Return where a link leads in a page that says what its links are relative to."""
    try:
        if not base or urlsplit(href).scheme:
            return href
        if href.startswith("/") or base.startswith("/") or urlsplit(base).netloc:
            return urljoin(base, href)
    except ValueError:
        return href
    # It is relative to the page, and so is what is returned.
    base = base.partition("#")[0].partition("?")[0]
    return base + href if href.startswith(("#", "?")) else base[: base.rfind("/") + 1] + href


def _attribute(root: LexborNode, selector: str, name: str) -> str | None:
    found = root.css_first(selector)
    return ((found.attributes.get(name) or "").strip() or None) if found else None


def _refusal(root: LexborNode) -> str | None:
    for meta in root.css("meta[name][content]"):
        name = (meta.attributes.get("name") or "").lower()
        if name == "robots" and is_noindex(meta.attributes.get("content") or ""):
            return "is not to be indexed (noindex)"
    for meta in root.css("meta[http-equiv][content]"):
        kind, content = meta.attributes.get("http-equiv") or "", meta.attributes.get("content") or ""
        found = _REFRESH.match(content) if kind.lower() == "refresh" else None
        if found and int(found[1] or 0) <= _AT_ONCE_SECONDS:
            return "only leads to another page (meta refresh)"
    return None


def _refusal_of_form(body: LexborNode, text: str) -> str | None:
    asks = len(text) <= _PASSWORD_CHARS and body.css_first('input[type="password" i]') is not None
    return "asks for a password" if asks else None


def _refusal_of_scripts(root: LexborNode, body: LexborNode, text: str) -> str | None:
    """Return why a page is left out that has nothing but a place for what scripts write, and perhaps a word until they do."""
    if len(text) > _WAITING_CHARS or root.css_first("script") is None:
        return None
    says = body.css_first("h1, h2, h3, p, li, td, pre, img[alt], main, article") if text else None
    has_place = not text or body.css_first("#app, #root, #main, #docute, #__next, #__nuxt") is not None
    return "says nothing until a browser runs its scripts" if has_place and says is None else None


def is_noindex(directives: str, robot: str = "*") -> bool:
    """Whether the value of a robots tag or header asks to be left out; what it says by name is for that robot alone."""
    is_for_us = True
    for part in directives.lower().split(","):
        name, colon, value = part.partition(":")
        if colon and name.strip() not in _VALUED_DIRECTIVES:
            is_for_us, name = name.strip() in {"*", robot}, value
        if is_for_us and not {"noindex", "none"}.isdisjoint(name.split()):
            return True
    return False


def _with_scripts(html: str) -> str:
    """Return the page without what only browsers that run no scripts show: left open, it would swallow the rest."""
    parts: list[str] = []
    place, start = 0, None
    for tag in _NOSCRIPT.finditer(html):
        if not tag[1]:
            start = tag.start()
        elif start is not None:
            if not _QUOTING.search(html, start, tag.start()):
                parts.append(html[place:start])
                place = tag.end()
            start = None
    return _SLOT.sub(r'<p class="card-title">\1</p>', "".join((*parts, html[place:])))


def _unfold(body: LexborNode, anchors: Mapping[str, LexborNode]) -> None:
    """Show what buttons in headings show, as accordions have it."""
    for button in _found(body, ":is(h1, h2, h3, h4, h5, h6, dt) > button[aria-expanded][aria-controls]"):
        panel = anchors.get(button.attributes.get("aria-controls") or "")
        if panel is not None and "hidden" in panel.attributes:
            del panel.attrs["hidden"]


def _found(node: LexborNode, selector: str) -> list[LexborNode]:
    """Return what fits the selector, each once: selectolax repeats what fits several selectors of a list."""
    return list({found.mem_id: found for found in node.css(selector)}.values())


def _anchors(root: LexborNode) -> dict[str, LexborNode]:
    """Return everything that an address can point to, each with the element that browsers go to: the first one."""
    found: dict[str, LexborNode] = {}
    for node in root.css("[id]"):
        if anchor := node.attributes.get("id"):
            found.setdefault(anchor, node)
    for node in root.css("a[name]"):
        if anchor := node.attributes.get("name"):
            found.setdefault(anchor, node)
    return found


def _parts_in(body: LexborNode) -> list[LexborNode]:
    """Return the elements that are the page: its main part where it says which that is, the largest text otherwise."""
    sizes = _sizes(body)
    size: Callable[[LexborNode], int] = lambda node: sizes.get(node.mem_id, 0)  # noqa: E731
    mains = [node for node in _found(body, "main, [role=main]") if size(node)]
    shown = [node for node in mains if "hidden" not in node.attributes]
    if shown:
        sizes[body.mem_id] -= sum(map(size, mains)) - sum(map(size, shown))
        mains = shown
    together = sum(map(size, mains))
    # There should be one. Of several that share the text, each is a part of the page.
    if mains and max(map(size, mains)) < _MAIN_SHARE * together and together >= _MAIN_SHARE * size(body):
        keys = {node.mem_id for node in mains}
        return [node for node in mains if not _is_in_one_of(node, keys)]
    return [_article_in(body, mains, size)]


def _is_in_one_of(node: LexborNode, keys: set[int]) -> bool:
    parent = node.parent
    while parent is not None and parent.mem_id not in keys:
        parent = parent.parent
    return parent is not None


def _article_in(body: LexborNode, mains: Sequence[LexborNode], size: Callable[[LexborNode], int]) -> LexborNode:
    article = max(mains, key=size, default=None)
    if article is None or size(article) < _MAIN_SHARE * size(body):
        articles = [node for node in _found(body, "article, [role=article]") if size(node)]
        largest = max(articles, key=size, default=None)
        if largest is not None and size(largest) >= _MAIN_SHARE * size(body):
            return _with_others(largest, articles)
        return article if article is not None and size(article) >= size(body) / 3 else _largest(body, size)
    inner = [node for node in article.css("article") if size(node)]
    if len(inner) == 1 and size(inner[0]) >= _MAIN_SHARE * size(article) and not _has_other_title(article, inner[0]):
        return inner[0]
    return article


def _with_others(article: LexborNode, articles: Sequence[LexborNode]) -> LexborNode:
    """Return what holds the article and those beside it, as the first pages of blogs have them."""
    parent = article.parent
    others = (node.parent for node in articles if node.mem_id != article.mem_id)
    has_others = parent is not None and any(other is not None and other.mem_id == parent.mem_id for other in others)
    return parent if has_others and parent is not None else article


def _has_other_title(outer: LexborNode, inner: LexborNode) -> bool:
    return bool(outer.css("h1")) and not inner.css("h1")


def _largest(body: LexborNode, size: Callable[[LexborNode], int]) -> LexborNode:
    """Go down for as long as one element holds nearly all of the text, and the headings beside it."""
    node = body
    has_heading = any(not _is_in_banner(heading) for heading in body.css("h1"))
    while True:
        largest = max(elements(node), key=size, default=None)
        if largest is None or not _is_holder(largest) or size(largest) < 0.8 * size(node):
            return node
        if any(child.tag in _HEADINGS for child in elements(node)) or (has_heading and not largest.css("h1")):
            return node
        if _is_section(node) and _has_heading_before(largest):
            return node
        node = largest


def _has_heading_before(node: LexborNode) -> bool:
    """Whether one of the elements before this one has a heading, which can be that of the section they are in."""
    before = (other for other in preceding(node) if other.is_element_node and not _is_frame(other))
    return any(other.css_first("h1, h2, h3, h4, h5, h6") is not None for other in before)


def _is_holder(node: LexborNode) -> bool:
    """Whether the element can hold a whole page: old ones are tables."""
    return node.tag in _HOLDERS or (node.tag == "table" and bool(node.css("h1, h2, h3")))


def _is_in_banner(heading: LexborNode) -> bool:
    """Whether the heading stands on top of the whole body, where sites have their own name."""
    node, parent = heading, heading.parent
    while parent is not None and parent.tag != "body":
        node, parent = parent, parent.parent
    classes = (node.attributes.get("class") or "").split()
    return not _BANNERS.isdisjoint({node.tag or "", node.attributes.get("id") or "", *classes})


def _sizes(body: LexborNode) -> dict[int, int]:
    """Return how many characters each element shows that are neither links nor frame."""
    sizes: Counter[int] = Counter()
    order: list[tuple[int, int]] = []
    stack = [(body, 0)]
    while stack:
        node, parent = stack.pop()
        if node.is_text_node:
            sizes[parent] += len((node.text_content or "").strip())
        elif node.is_element_node and node.tag != "a" and not _is_frame(node):
            order.append((node.mem_id, parent))
            stack += [(child, node.mem_id) for child in children(node)]
    for own, parent in reversed(order):
        sizes[parent] += sizes[own]
    return sizes


def _heading_before(body: LexborNode, article: LexborNode) -> str | None:
    """Return the page's only heading of level 1 if it stands in its main part, but outside of the article."""
    found = [node for node in _found(body, "main h1, [role=main] h1") if node.mem_id != article.mem_id]
    return _joined(found[0].text()) if len(found) == 1 else None


def _is_frame(node: LexborNode) -> bool:
    """Whether the element is no part of what the page says."""
    tag = node.tag or ""
    if tag in _UNREAD:
        return True
    attributes = node.attributes
    if not attributes and tag not in {"footer", "aside"}:
        return tag == "button"
    if MARK in attributes:
        return True
    classes = set((attributes.get("class") or "").split())
    role = (attributes.get("role") or "").lower()
    if tag in _HEADINGS or tag in {"main", "body", "article"} or role == "main":
        return False
    return (
        (not _FRAME.isdisjoint(classes) and not _is_whole_heading(node))
        or (
            role in _FRAME_ROLES
            and not (role == "doc-backlink" and _IS_LETTERS.search(re.sub("[0-9]", "", node.text())))
        )
        or (attributes.get("id") or "") in _FRAME_IDS
        or (tag == "footer" and (node.parent is None or node.parent.tag != "blockquote"))
        or (tag == "a" and "anchor" in classes and not _is_whole_heading(node))
        or (tag == "button" and "aria-expanded" not in attributes and role != "tab")
        or _is_hidden(node, classes, role)
        or (tag == "aside" and _is_mostly_links(node))
    )


def _is_whole_heading(node: LexborNode) -> bool:
    """Whether a link to a heading is all of its text, as VuePress has it."""
    parent = node.parent
    if node.tag != "a" or parent is None or parent.tag not in _HEADINGS:
        return False
    text = _joined(node.text())
    return _IS_LETTERS.search(text) is not None and text == _joined(parent.text())


def _is_hidden(node: LexborNode, classes: set[str], role: str) -> bool:
    attributes = node.attributes
    if "hidden" in attributes and role != "tabpanel" and attributes["hidden"] != "until-found":
        return True
    if attributes.get("aria-hidden") != "true" or any(_TITLE_CLASS.search(name) for name in classes):
        return False
    return _TAB_PANELS.isdisjoint(classes) and role != "tabpanel"


def _is_mostly_links(node: LexborNode) -> bool:
    linked = sum(len(link.text().strip()) for link in node.css("a"))
    headings = sum(len(heading.text().strip()) for heading in _found(node, "h2, h3, h4") if not heading.css("a"))
    return linked > _LINKED_SHARE * (len(node.text().strip()) - headings)


@dataclass
class _Sink:
    """Where blocks go that stand in a list, a table or a quotation."""

    blocks: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class _Enclosing:
    """An element that has an id, while what it holds is being read."""

    anchor: str
    blocks_before: int
    is_section: bool


class _Reader:
    """Reads one page from its start to its end."""

    def __init__(self, anchors: dict[str, LexborNode], title: LexborNode | None = None) -> None:
        """Begin; `title` is what says how the page is called, if that is no heading."""
        self.outline = Outline()
        self.outline.title = _joined(title.text()) if title is not None else None
        self._title_id = title.mem_id if title is not None else None
        self._anchors = anchors
        self._line: list[str] = []
        self._sinks: list[_Sink] = []
        self._enclosing: list[_Enclosing] = []
        self._count = 0
        self._floating: str | None = None
        """The anchor of an empty element just before, which a heading may take."""
        self.repeated: list[str] = []
        self._tabs: list[list[str]] = []
        """The labels that have been read, and whose panels are still to come."""

    def read(self, article: LexborNode) -> None:
        """Read everything in the element."""
        self._read_children(article)
        self._end_block()

    def _read_children(self, node: LexborNode) -> None:
        for child in children(node):
            self._read_node(child)

    def _read_node(self, node: LexborNode) -> None:
        if node.is_text_node:
            self._add(formulas.with_dollars(_INVISIBLE.sub("", node.text_content or "")))
            return
        if not node.is_element_node or _is_frame(node):
            return
        anchor = self._anchor_of(node)
        if anchor and not (node.first_child or node.tag in _BLOCKS):
            self._floating = anchor
        enclosing = _Enclosing(anchor, self._count, _is_section(node)) if anchor else None
        if enclosing:
            self._enclosing.append(enclosing)
        self._read_element(node)
        if enclosing:
            self._enclosing.pop()

    def _read_element(self, node: LexborNode) -> None:  # noqa: C901, PLR0912  # One branch for each kind of element.
        tag, classes = node.tag or "", set((node.attributes.get("class") or "").split())
        role = (node.attributes.get("role") or "").lower()
        if node.mem_id == self._title_id:
            self._read_heading(node, 1)
        elif tag in _HEADINGS and _is_title_of_admonition(node):
            self._read_title(node)
        elif tag in _HEADINGS or (role == "heading" and tag in {"div", "p", "span"}):
            self._read_heading(node, _HEADINGS.get(tag) or _level(node))
        elif role == "tablist" or not _TAB_LISTS.isdisjoint(classes) or _is_labels_of_code(node, classes):
            self._tabs.append(_labels(node))
        elif role == "tabpanel" or not _TAB_PANELS.isdisjoint(classes) or _is_block_of_code(node):
            self._read_panel(node)
        elif tag == "pre" or ("fragment" in classes and node.css_first(".line") is not None):
            self._read_code(node)
        elif "admonitionblock" in classes:
            self._read_admonition(node)
        elif tag == "table":
            self._read_table(node)
        elif tag in {"ul", "ol", "menu"}:
            self._read_list(node)
        elif tag == "blockquote":
            self._read_quotation(node)
        elif tag == "math" or "katex" in classes or tag == "mjx-container" or not _MATH.isdisjoint(classes):
            self._read_formula(node, classes)
        elif tag == "code" and node.css_first("pre") is not None:
            self._read_children(node)
        elif tag in {"code", "kbd", "samp", "tt"}:
            self._add(_as_code(" ".join(_code(node).split("\n")) if node.css("br, div") else node.text()))
        elif tag == "br":
            self._line.append(_BREAK)
        elif tag == "img":
            self._read_image(node, classes)
        elif tag == "sup" and not _footnote(node):
            self._add(_raised(node))
        elif tag in {"summary", "dt", "label", "button"} or any(_TITLE_CLASS.search(name) for name in classes):
            self._read_title(node)
        elif tag in {"a", "sup"} and _footnote(node):
            pass
        elif tag in _BLOCKS:
            self._end_block()
            self._read_children(node)
            self._end_block()
        else:
            self._read_children(node)

    def _add(self, text: str) -> None:
        if text:
            self._line.append(text)
            if not text.isspace():
                self._floating = None

    def _end_block(self, kind: str = "paragraph") -> None:
        """Let the text that has been read be a block of its own."""
        text = _in_lines("".join(self._line))
        self._line.clear()
        if text:
            floating = self._floating  # It stands after this text, if there is one.
            self._add_block(kind, text)
            self._floating = floating

    def _add_block(self, kind: str, text: str) -> None:
        self._count += 1
        self._floating = None
        if self._sinks:
            self._sinks[-1].blocks.append((kind, text))
        else:
            self.outline.add_block(kind, text)

    def _blocks_in(self, node: LexborNode) -> list[tuple[str, str]]:
        """Return the blocks of an element, which then go wherever the caller puts them."""
        sink = _Sink()
        self._sinks.append(sink)
        self._read_children(node)
        self._end_block()
        self._sinks.pop()
        return sink.blocks

    def _text_in(self, node: LexborNode) -> str:
        """Return the text of an element as one line."""
        return " ".join(" ".join(text for _, text in self._blocks_in(node)).split())

    def _anchor_of(self, node: LexborNode) -> str | None:
        """Return the element's anchor, if browsers go to this element and no other that has the same."""
        attributes = node.attributes
        anchor = attributes.get("id") or (attributes.get("name") if node.tag == "a" else None)
        first = self._anchors.get(anchor) if anchor else None
        return anchor if first is not None and first.mem_id == node.mem_id else None

    def _read_heading(self, node: LexborNode, level: int) -> None:
        floating = self._floating
        self._end_block()
        enclosing, before = self._enclosing_anchor(), self._count
        text = self._heading_text(node)
        self._count = before
        if self._sinks:
            if text:
                self._add_block("paragraph", f"**{text}**")
            return
        anchor = self._anchor_of(node) or self._anchor_within(node) or enclosing or floating
        if level == 1 and self.outline.title is None and text:
            anchor = ""  # The page's own title is where the page begins.
        if text:
            self.outline.add_heading(level, text, anchor)
            if (own := node.attributes.get("id")) and own != self._anchor_of(node):
                self.repeated.append(own)
            self._count += 1
            self._floating = None

    def _heading_text(self, node: LexborNode) -> str:
        """Return the heading as it is shown, without a link to itself."""
        links = [link for link in node.css("a") if (link.attributes.get("href") or "").startswith("#")]
        shown = self._text_in(node)
        if node.css_first("button"):  # An accordion's, which by itself would be a title.
            shown = shown.removeprefix("**").removesuffix("**")
        for link in links:
            label = _joined(link.text())
            if label and shown != label and not _IS_LETTERS.search(label):
                shown = _joined(shown.removesuffix(label).removeprefix(label))
        return shown

    def _anchor_within(self, node: LexborNode) -> str | None:
        anchors = (self._anchor_of(inner) for inner in node.css("[id], a[name]") if inner.mem_id != node.mem_id)
        return next((anchor for anchor in anchors if anchor), None)

    def _enclosing_anchor(self) -> str | None:
        """Return the anchor of what begins with this heading, or else of the section that it stands in."""
        for enclosing in reversed(self._enclosing):
            if enclosing.blocks_before == self._count:
                return enclosing.anchor
            if enclosing.is_section:
                return None  # The section's own heading has it, and this one is below that.
        return None

    def _read_title(self, node: LexborNode) -> None:
        self._end_block()
        has_blocks = node.tag == "label" and node.css("p, div, ul, pre, table, h1, h2, h3, h4, h5, h6")
        if has_blocks or node.css(":is(h1, h2, h3, h4, h5, h6)[id]"):
            self._read_children(node)
        elif text := self._text_in(node):
            self._add_block("paragraph", text if text.startswith("**") else f"**{text}**")

    def _read_admonition(self, node: LexborNode) -> None:
        """Read an admonition as Asciidoctor writes it: a table of its kind, as text or as an icon, and its content."""
        kind, content = node.css_first("td.icon"), node.css_first("td.content")
        icon = kind.css_first("[title], [alt]") if kind else None
        label = _joined(kind.text()) if kind else ""
        if not label and icon:
            label = _joined(icon.attributes.get("title") or icon.attributes.get("alt") or "")
        self._end_block()
        if label:
            self._add_block("paragraph", f"**{label}**")
        self._read_children(content if content is not None else node)
        self._end_block()

    def _read_panel(self, node: LexborNode) -> None:
        self._end_block()
        label = self._label_of(node)
        if label:
            self._add_block("paragraph", f"**{label}**")
        first = next(elements(node), None)
        for child in children(node):
            says_label = first is not None and child.mem_id == first.mem_id and _joined(child.text()) == label
            if not says_label or child.tag in _HEADINGS:
                self._read_node(child)
        self._end_block()

    def _label_of(self, panel: LexborNode) -> str | None:
        """Return what the tab of this panel says: the one that it names, or the next one."""
        while self._tabs and not self._tabs[-1]:
            self._tabs.pop()
        following = self._tabs[-1].pop(0) if self._tabs else None
        if (tab := self._anchors.get(panel.attributes.get("aria-labelledby") or "")) is not None:
            return _joined(tab.text()) or following
        return following

    def _read_code(self, node: LexborNode) -> None:
        self._end_block()
        if len(node.css("pre")) > 1:  # mdBook puts one into another, Jekyll a table of them.
            self._read_children(node)
            return
        if _numbers_lines(node):
            return
        code = _code(node).strip("\n")
        if code.strip():
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
            self._add_block("fence", f"{fence}{_language(node)}\n{code}\n{fence}")

    def _read_table(self, node: LexborNode) -> None:
        self._end_block()
        if node.attributes.get("role") == "presentation" or node.css("pre, td table, h1, h2, h3, h4, dl"):
            self._read_children(node)
            self._end_block()
            return
        rows: list[list[str]] = []
        head = 0
        columns = _Columns()
        for row in node.css("tr"):
            cells = [cell for cell in elements(row) if cell.tag in {"td", "th"}]
            texts = columns.row([(cell, self._text_in_cell(cell)) for cell in cells])
            if any(texts):
                rows.append(texts)
                head += len(rows) == 1 and all(cell.tag == "th" for cell in cells)
        caption = node.css_first("caption")
        if caption and (text := self._text_in(caption)):
            self._add_block("paragraph", text)
        if rows:
            self._add_block("table", _as_table(rows, has_head=bool(head)))

    def _text_in_cell(self, cell: LexborNode) -> str:
        return "" if _is_frame(cell) else self._text_in(cell).replace("|", r"\|")

    def _read_list(self, node: LexborNode) -> None:
        self._end_block()
        number = _number(node.attributes.get("start"), 1)
        items: list[tuple[str, list[tuple[str, str]]]] = []
        for child in elements(node):
            if child.tag == "li" and not _is_frame(child):
                marker = f"{number}. " if node.tag == "ol" else "- "
                if blocks := self._blocks_in(child):
                    items.append((marker, blocks))
                    number += 1
            elif child.tag != "li":
                items += [("", blocks)] if (blocks := self._blocks_in_node(child)) else []
        text = "\n".join(_as_item(marker, blocks) for marker, blocks in items)
        is_plain = all(kind in {"paragraph", "list"} for _, blocks in items for kind, _ in blocks)
        if text and (is_plain or len(text) <= _LONG_LIST_CHARS):
            self._add_block("list", text)
        else:  # A list of whole paragraphs and listings is cut between these.
            for marker, [(kind, first), *rest] in items:
                is_text = kind in {"paragraph", "list"}
                self._add_block(kind, f"{marker}{first}" if is_text else first)
                for other, block in rest:
                    self._add_block(other, block)

    def _blocks_in_node(self, node: LexborNode) -> list[tuple[str, str]]:
        sink = _Sink()
        self._sinks.append(sink)
        self._read_node(node)
        self._end_block()
        self._sinks.pop()
        return sink.blocks

    def _read_quotation(self, node: LexborNode) -> None:
        self._end_block()
        blocks = self._blocks_in(node)
        if sum(len(text) for _, text in blocks) > _LONG_LIST_CHARS:
            for kind, text in blocks:
                self._add_block(kind, text)
        elif blocks:
            text = "\n\n".join(text for _, text in blocks)
            self._add_block("blockquote", "\n".join(f"> {line}".rstrip() for line in text.split("\n")))

    def _read_formula(self, node: LexborNode, classes: set[str]) -> None:
        math = node if node.tag == "math" else node.css_first("math")
        if math is not None:
            tex = formulas.tex_of(math)
            is_displayed = (
                math.attributes.get("display") == "block" or "katex-display" in classes or _is_displayed(node)
            )
        elif node.tag == "img":
            tex, is_displayed = node.attributes.get("alt") or "", "displayed" in classes
        else:
            text = node.text().strip()
            has_delimiters = text.startswith((r"\(", r"\[", "$"))
            if has_delimiters or "arithmatex" in classes or node.tag not in {"span", "div"}:
                self._read_tex(node, formulas.with_dollars(text))
            else:
                self._read_children(node)  # Formulas in HTML, such as Sphinx can write.
            return
        self._read_tex(node, formulas.displayed(tex) if is_displayed else formulas.inline(tex))

    def _read_tex(self, node: LexborNode, text: str) -> None:
        if text.startswith("$$") or node.tag == "div":
            self._end_block()
            self._add(text)
            self._end_block("math")
        else:
            self._add(text)

    def _read_image(self, node: LexborNode, classes: set[str]) -> None:
        alt = _joined(node.attributes.get("alt") or "")
        if not classes.isdisjoint({"math", "tex", "mwe-math-fallback-image-inline"}):
            self._add(formulas.inline(alt))
        elif alt:
            self._add(f" {alt} ")


def _is_title_of_admonition(node: LexborNode) -> bool:
    """Whether this heading is what an admonition begins with, and no address leads to it."""
    parent = node.parent
    if (
        parent is None
        or parent.tag in _HOLDERS - {"div"}
        or "id" in node.attributes
        or node.css_first("[id]") is not None
    ):
        return False
    is_first = not any(_joined(before.text()) for before in preceding(node))
    return is_first and not _ADMONITIONS.isdisjoint((parent.attributes.get("class") or "").lower().split())


def _is_section(node: LexborNode) -> bool:
    return node.tag == "section" or any(
        _SECTION_CLASS.fullmatch(name) for name in (node.attributes.get("class") or "").split()
    )


def _level(node: LexborNode) -> int:
    return min(max(_number(node.attributes.get("aria-level"), 2), 1), 6)


def _number(text: str | None, default: int) -> int:
    return int(text) if text and re.fullmatch("[0-9]{1,6}", text) else default


def _is_labels_of_code(node: LexborNode, classes: set[str]) -> bool:
    parent = node.parent
    return "tabs" in classes and parent is not None and "vp-code-group" in (parent.attributes.get("class") or "")


def _is_block_of_code(node: LexborNode) -> bool:
    """Whether this is a panel in a group of VitePress."""
    parent = node.parent
    group = parent.parent if parent is not None and (parent.attributes.get("class") or "") == "blocks" else None
    return group is not None and "vp-code-group" in (group.attributes.get("class") or "")


def _labels(node: LexborNode) -> list[str]:
    tabs = node.css('[role="tab"]') or node.css("label") or list(elements(node))
    return [label for tab in tabs if (label := _joined(tab.text() or tab.attributes.get("data-title") or ""))]


def _footnote(node: LexborNode) -> bool:
    """Whether this only marks where a footnote belongs."""
    links = [node] if node.tag == "a" else node.css("a")
    if len(links) != 1 or _joined(links[0].text()).strip("[]() ") != _joined(node.text()).strip("[]() "):
        return False
    [link] = links
    if link.attributes.get("role") == "doc-noteref":
        return True
    href = link.attributes.get("href") or ""
    leads_to_note = re.match(r"[^#]*#_?(?:user-content-)?(?:fn|footnote|cite|_ftn|footdef|endnote)", href) is not None
    return leads_to_note and _NOTE_MARK.fullmatch(_joined(link.text())) is not None


def _raised(node: LexborNode) -> str:
    text = _joined(node.text())
    is_word = text.lower() in {"st", "nd", "rd", "th", "tm", "\u2122", "\u00ae"} or len(text) > _LONGEST_POWER
    return text if is_word or not text else f"^{text}"


def _is_displayed(node: LexborNode) -> bool:
    if node.attributes.get("display") == "true":
        return True
    parent = node.parent
    return parent is not None and "katex-display" in (parent.attributes.get("class") or "")


def _as_code(text: str) -> str:
    text = _joined(_INVISIBLE.sub("", text))
    if not text:
        return ""
    marks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    padding = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{marks}{padding}{text}{padding}{marks}"


def _code(node: LexborNode) -> str:  # noqa: C901  # A listing has text, lines, and what holds lines.
    """Return the lines of a listing, some of which are elements and some text."""
    parts: list[str] = []
    line_begun = False

    def read(inner: LexborNode) -> None:
        nonlocal line_begun
        if inner.is_text_node:
            text = inner.text_content or ""
            parts.append(text)
            line_begun = line_begun and "\n" not in text
            return
        if not inner.is_element_node or _is_frame(inner):
            return
        if inner.tag == "br":
            parts.append("\n")
            line_begun = False
            return
        if inner.tag in {"div", "li", "tr"} or not _LINE.isdisjoint((inner.attributes.get("class") or "").split()):
            if _LINE.isdisjoint((inner.attributes.get("class") or "").split()) and _holds_lines(inner):
                for child in children(inner):
                    read(child)
                return
            if line_begun:
                parts.append("\n")
            line_begun = True
        for child in children(inner):
            read(child)

    for child in children(node):
        read(child)
    return "\n".join(line.rstrip() for line in "".join(parts).replace("\r\n", "\n").split("\n"))


def _numbers_lines(pre: LexborNode) -> bool:
    """Whether a listing is the numbers of the lines of another one, which stands in the next cell."""
    cell = pre.parent
    while cell is not None and cell.tag not in {"td", "table", "body"}:
        cell = cell.parent
    if cell is None or cell.tag != "td":
        return False
    beside = next((node for node in following(cell) if node.is_element_node), None)
    if beside is None or beside.css_first("pre") is None:
        return False
    numbers = pre.text().split()
    first = _number(numbers[0], 0) if numbers else 0
    return numbers == [str(number) for number in range(first, first + len(numbers))]


def _holds_lines(node: LexborNode) -> bool:
    """Whether this is not a line, but is in one or holds several."""
    parent = node.parent
    while parent is not None and parent.tag != "pre":
        if not _LINE.isdisjoint((parent.attributes.get("class") or "").split()):
            return True
        parent = parent.parent
    return any(
        child.tag in {"div", "li", "tr"} or not _LINE.isdisjoint((child.attributes.get("class") or "").split())
        for child in elements(node)
    )


def _language(pre: LexborNode) -> str:
    """Return the language that a listing says it is in; that of its code, or of an element close around it."""
    code = pre.css_first("code")
    around = [code] if code is not None else []
    node: LexborNode | None = pre
    for _ in range(_LANGUAGE_LEVELS):
        if node is None or node.tag in {"body", "main", "article", "section"}:
            break
        around.append(node)
        node = node.parent
    for element in around:
        attributes = element.attributes
        given = attributes.get("data-language") or attributes.get("data-lang")
        said = attributes.get("class") or "", attributes.get("data-syntaxhighlighter-params") or ""
        found = (pattern.search(text) for text in said for pattern in _LANGUAGES)
        language = given or next((match[1] for match in found if match), "")
        if language and language.lower() not in _NO_LANGUAGE:
            return language.lower()
    return ""


class _Columns:
    """Puts a table's cells into their columns, those that span several rows or columns into each of them."""

    def __init__(self) -> None:
        self._above: dict[int, tuple[str, int]] = {}
        """The cells of the rows above that reach into the next one, and into how many they do."""
        self._room = _REPEATED_CHARS

    def row(self, cells: Sequence[tuple[LexborNode, str]]) -> list[str]:
        """Return the texts of the next row."""
        texts: list[str] = []
        for cell, text in cells:
            self._continue_above(texts)
            rows = _number(cell.attributes.get("rowspan"), 1) or _MOST_ROWS
            self._put(texts, text, rows)
            for _ in range(1, min(_number(cell.attributes.get("colspan"), 1), _MOST_COLUMNS)):
                self._put(texts, self._again(text), rows)
        self._continue_above(texts)
        return texts

    def _continue_above(self, texts: list[str]) -> None:
        while len(texts) in self._above:
            text, rows = self._above[len(texts)]
            self._put(texts, self._again(text), rows)

    def _put(self, texts: list[str], text: str, rows: int) -> None:
        if rows > 1 and len(texts) < _MOST_COLUMNS:
            self._above[len(texts)] = (text, rows - 1)
        else:
            self._above.pop(len(texts), None)
        texts.append(text)

    def _again(self, text: str) -> str:
        """Return what stands in another place for a text: itself, as long as a table does not become too long by that."""
        if len(text) > self._room:
            return ""
        self._room -= len(text)
        return text


def _as_table(rows: list[list[str]], *, has_head: bool) -> str:
    width = min(max(map(len, rows)), _MOST_COLUMNS)
    rows = [[*row, *[""] * (width - len(row))] for row in rows]
    head, body = (rows[0], rows[1:]) if has_head else ([""] * width, rows)
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def _as_item(marker: str, blocks: list[tuple[str, str]]) -> str:
    """Return the blocks of a list's item, those after the first line indented."""
    indent = " " * len(marker)
    lines = "\n".join(text for _, text in blocks).split("\n")
    return "\n".join(f"{indent if number else marker}{line}".rstrip() for number, line in enumerate(lines))


def _joined(text: str) -> str:
    return " ".join(text.split())


def _in_lines(text: str) -> str:
    lines = map(_joined, text.split(_BREAK))
    return "\n".join(line for line in lines if line)
