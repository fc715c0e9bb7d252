"""A built site: which pages are read, which address and anchor each section has, and what is left out of a page."""

from pathlib import Path

import pytest

from app.book.apart import Apart
from app.book.article import Article, is_noindex, read_article
from app.book.site import decoded, locations, read_site
from app.book.tree import Book, Skipped, TreeError

URL = "https://book.example.org/docs/"
LONG = "A robot senses, decides and acts, and then it senses again. " * 6


def page(body: str, *, title: str = "Arms - My Book", head: str = "", lang: str = "en") -> str:
    return f'<!doctype html><html lang="{lang}"><head><title>{title}</title>{head}</head><body>{body}</body></html>'


def build(folder: Path, **files: str | bytes) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def read(folder: Path, *exclude: str) -> Book:
    return read_site(folder, URL, exclude=exclude)


def sections(html: str) -> list[tuple[str, tuple[str, ...], str]]:
    """Each section that says something: its anchor, its headings and its text."""
    article = read_article(html)
    return [
        (section.anchor, section.headings, "\n\n".join(text for _, text in section.blocks))
        for section in article.sections
        if section.blocks
    ]


def text(body: str) -> str:
    """What the body of a page says."""
    return "\n\n".join(said for _, _, said in sections(page(body)))


# The frames of these are as the generators of November 2026 write them, cut to what matters.
GENERATORS = {
    "mdBook": """
        <nav id="sidebar"><a href="x.html">Nav</a></nav>
        <div id="page"><div id="menu-bar"><h1 class="menu-title">My Book</h1></div>
        <div id="content"><main>
          <h1 id="arms"><a class="header" href="#arms">Arms</a></h1><p>Intro.</p>
          <h2 id="elbow"><a class="header" href="#elbow">The elbow</a></h2><p>It bends.</p>
          <pre><pre class="playground"><code class="language-rust"><span class="boring">fn main() {
        </span>let a = 1;
        <span class="boring">}</span></code></pre></pre>
        </main><nav class="nav-wrapper"><a href="y.html">Next</a></nav></div></div>""",
    "MkDocs with Material": """
        <header class="md-header"><nav>Nav</nav></header>
        <div class="md-container"><main class="md-main"><div class="md-main__inner">
        <div class="md-sidebar"><nav class="md-nav"><a href="#elbow">The elbow</a></nav></div>
        <div class="md-content"><article class="md-content__inner md-typeset">
          <a href="edit" class="md-content__button md-icon">Edit</a>
          <h1 id="arms">Arms<a class="headerlink" href="#arms" title="Permanent link">&para;</a></h1><p>Intro.</p>
          <h2 id="elbow">The elbow<a class="headerlink" href="#elbow">&para;</a></h2><p>It bends.</p>
          <div class="language-rust highlight"><table class="highlighttable"><tr><td class="linenos"><div class="linenodiv">
          <pre><span>1</span></pre></div></td><td class="code"><div><pre><span></span><code>let a = 1;
</code></pre></div></td></tr></table></div>
          <aside class="md-source-file">Last update</aside>
        </article></div></div></main></div><footer>Foot</footer>""",
    "Sphinx": """
        <div class="document"><div class="bodywrapper"><div class="body" role="main">
          <section id="arms"><h1>Arms<a class="headerlink" href="#arms">¶</a></h1><p>Intro.</p>
          <section id="elbow"><span id="old-name"></span><h2>The elbow<a class="headerlink" href="#elbow">¶</a></h2>
          <p>It bends.</p><div class="highlight-rust notranslate"><div class="highlight"><pre><span></span>let a = 1;
</pre></div></div></section></section>
        </div></div><div class="sphinxsidebar" role="navigation"><p>Sidebar</p></div></div>""",
    "Quarto": """
        <div id="quarto-content"><nav id="quarto-sidebar">Nav</nav><main class="content" id="quarto-document-content">
          <header id="title-block-header" class="quarto-title-block"><nav class="quarto-page-breadcrumbs">Crumb</nav>
          <h1 class="title">Arms</h1></header><p>Intro.</p>
          <section id="elbow" class="level2"><h2 class="anchored" data-anchor-id="elbow">The elbow</h2><p>It bends.</p>
          <div class="sourceCode" id="cb1"><pre class="sourceCode rust code-with-copy"><code class="sourceCode rust"
          ><span id="cb1-1"><a href="#cb1-1" aria-hidden="true" tabindex="-1"></a>let a = 1;</span></code></pre>
          <button title="Copy">Copy</button></div></section>
        </main></div>""",
    "VitePress": """
        <div id="app"><div class="VPContent"><div class="VPDoc"><div class="aside"><div class="VPDocAside">On this page</div>
        </div><main class="main"><div class="vp-doc">
          <h1 id="arms" tabindex="-1">Arms <a class="header-anchor" href="#arms">&ZeroWidthSpace;</a></h1><p>Intro.</p>
          <h2 id="elbow" tabindex="-1">The elbow <a class="header-anchor" href="#elbow">&ZeroWidthSpace;</a></h2><p>It bends.</p>
          <div class="language-rust"><button title="Copy"></button><pre class="shiki"><code><span class="line">let a = 1;</span
          ></code></pre></div>
        </div></main><footer class="VPDocFooter">Next</footer></div></div></div>""",
    "VuePress": """
        <div id="app"><header class="vp-navbar">Nav</header><main class="vp-page"><div class="theme-default-content" vp-content>
          <h1 id="arms" tabindex="-1"><a class="header-anchor" href="#arms"><span>Arms</span></a></h1><p>Intro.</p>
          <h2 id="elbow" tabindex="-1"><a class="header-anchor" href="#elbow"><span>The elbow</span></a></h2><p>It bends.</p>
          <div class="language-rust line-numbers-mode" data-ext="rs"><pre><code class="language-rust"><span class="line">let a = 1;
</span></code></pre><div class="line-numbers" aria-hidden="true"><div class="line-number"></div></div></div>
        </div><footer class="vp-page-meta"><div class="edit-link"><a>Edit this page</a></div></footer></main></div>""",
    "Starlight": """
        <header>Head</header><nav>Nav</nav><main data-pagefind-body>
          <div class="content-panel"><h1 id="_top">Arms</h1></div><div class="sl-markdown-content"><p>Intro.</p>
          <div class="sl-heading-wrapper level-h2"><h2 id="elbow">The elbow</h2><a class="sl-anchor-link" href="#elbow">
          <span class="sr-only">Section titled</span></a></div><p>It bends.</p>
          <div class="expressive-code"><figure class="frame"><pre data-language="rust"><code><div class="ec-line"><div class="code">let a = 1;</div></div></code></pre><div class="copy"><button>Copy</button></div></figure></div></div>
        <footer>Edit page</footer></main>""",
    "Nextra": """
        <nav>Nav</nav><article><main data-pagefind-body="true"><h1>Arms</h1><p>Intro.</p>
          <h2>The elbow<a href="#elbow" id="elbow" class="subheading-anchor" aria-label="Permalink"></a></h2><p>It bends.</p>
          <div><pre data-language="rust"><code><span><span>let a = 1;</span></span></code></pre><button title="Copy code"></button>
        </div></main></article>""",
    "GitBook": """
        <aside><a href="x">Nav</a></aside><main><nav>Crumbs</nav><header><h1>Arms</h1></header><div class="contents"><p>Intro.</p>
          <h2 id="elbow"><div><a href="#elbow" aria-label="Direct link to heading"><svg></svg></a></div><div>The elbow</div></h2>
          <p>It bends.</p><div class="language-rust"><pre><code><span class="highlight-line"><span>let a = 1;</span></span></code
          ></pre></div></div></main>""",
    "Mintlify": """
        <div id="sidebar"><a href="x">Nav</a></div><div id="content-area"><header id="header"><h1 id="page-title">Arms</h1>
        </header><div class="mdx-content" id="content"><p>Intro.</p><h2 id="elbow"><a href="#elbow" aria-label="Navigate">\u200b</a>
        <span>The elbow</span></h2><p>It bends.</p><div class="code-block"><pre><code language="rust" class="language-rust"
        >let a = 1;</code></pre></div></div><div class="feedback-toolbar">Was this helpful?</div>
        <div id="pagination"><a href="y">Next</a></div></div>""",
    "Hugo Book": """
        <main class="container"><aside class="book-menu"><nav>Nav</nav></aside><div class="book-page"><article class="markdown
        book-article"><h1 id="arms">Arms<a class="anchor" href="#arms">#</a></h1><p>Intro.</p>
          <h2 id="elbow">The elbow<a class="anchor" href="#elbow">#</a></h2><p>It bends.</p><div class="highlight"><pre
          tabindex="0"><code class="language-rust" data-lang="rust"><span style="display:flex"><span>let a = 1;
</span></span></code></pre></div></article></div><aside class="book-toc"><nav>TOC</nav></aside></main>""",
    "plain HTML": """
        <div class="left"><ul><li><a href="a.html">Nav one</a></li><li><a href="b.html">Nav two</a></li></ul></div>
        <div class="right"><h1>Arms</h1><p>Intro.<a name="elbow"></a><h2>The elbow</h2><p>It bends.
        <pre class="language-rust">let a = 1;</pre></div>""",
}


@pytest.mark.parametrize("generator", GENERATORS)
def test_the_article_is_read_without_its_frame_and_with_its_anchors(generator: str) -> None:
    body = GENERATORS[generator].replace("Intro.", f"Intro. {LONG}").replace("It bends.", f"It bends. {LONG}")
    article = read_article(page(body))

    assert article.heading == "Arms"
    assert sections(page(body)) == [
        ("", (), f"Intro. {LONG}".strip()),
        ("elbow", ("The elbow",), f"It bends. {LONG.strip()}\n\n```rust\nlet a = 1;\n```"),
    ]


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<p>One<br>two &amp; three</p>", "One\ntwo & three"),
        ("<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>", "- a\n  - b\n- c"),
        ("<ol start=3><li><p>a</p><pre>x\n\n y</pre></li><li>b</li></ol>", "3. a\n   ```\n   x\n\n    y\n   ```\n4. b"),
        ("<blockquote><p>a</p><p>b</p></blockquote>", "> a\n>\n> b"),
        ("<table><thead><tr><th>A<th>B<tbody><tr><td>1|2<td>3</table>", "| A | B |\n| --- | --- |\n| 1\\|2 | 3 |"),
        ("<table><tr><td>1<td>2</table>", "|  |  |\n| --- | --- |\n| 1 | 2 |"),
        ("<dl><dt>Arm<dd>It reaches.</dl>", "**Arm**\n\nIt reaches."),
        ('<div class="admonition note"><p class="admonition-title">Note</p><p>Mind.</p></div>', "**Note**\n\nMind."),
        (
            '<aside class="starlight-aside"><p class="starlight-aside__title" aria-hidden="true">Tip</p><p>Do.</p></aside>',
            "**Tip**\n\nDo.",
        ),
        ("<details><summary>More</summary><p>Hidden.</p></details>", "**More**\n\nHidden."),
        ('<figure><img src=a.png alt="An arm"><figcaption>Figure 1</figcaption></figure>', "An arm\n\nFigure 1"),
        ("<p>Use <code>a  `b`</code> and <kbd>Ctrl</kbd>.</p>", "Use `` a `b` `` and `Ctrl`."),
        ("<p>x<sup>2</sup>, 1<sup>st</sup>, H<sub>2</sub>O<sup><a href='#fn1'>1</a></sup></p>", "x^2, 1st, H2O"),
        (r'<p>So <span class="math notranslate">\(a^2\)</span> holds.</p>', "So $a^2$ holds."),
        (
            r'<div class="math">\[\begin{aligned}a &amp;= b\end{aligned}\]</div>',
            r"$$\begin{aligned}a &= b\end{aligned}$$",
        ),
        (r"<p>Plain \(x_1\) and <code>\(x\)</code></p>", r"Plain $x_1$ and `\(x\)`"),
        (
            (
                '<span class="katex"><span class="katex-mathml"><math><semantics><mi>x</mi><annotation encoding="application/x-tex">'
                r'\vec{x}</annotation></semantics></math></span><span class="katex-html" aria-hidden="true">x</span></span>'
            ),
            r"$\vec{x}$",
        ),
        (
            "<math><mfrac><mn>1</mn><msup><mi>n</mi><mn>2</mn></msup></mfrac><mo>≤</mo><msqrt><mi>α</mi></msqrt></math>",  # noqa: RUF001
            r"$\frac{1}{n^{2}} \le \sqrt{\alpha}$",
        ),
        (
            (
                '<div class="tabbed-set"><input type="radio"><div class="tabbed-labels"><label>C</label><label>Go</label></div>'
                '<div class="tabbed-content"><div class="tabbed-block"><p>c</p></div><div class="tabbed-block"><p>g</p></div></div></div>'
            ),
            "**C**\n\nc\n\n**Go**\n\ng",
        ),
        (
            (
                '<ul role="tablist"><li role="tab" id="t1">npm</li><li role="tab" id="t2">pip</li></ul>'
                '<div role="tabpanel" aria-labelledby="t1">n</div><div role="tabpanel" aria-labelledby="t2" hidden>p</div>'
            ),
            "**npm**\n\nn\n\n**pip**\n\np",
        ),
        (
            (
                "<div role=tablist><button role=tab>Mac</button></div><div role=tabpanel><div class=tab-title>Mac</div><p>m</div>"
                "<div class='hint-container tip'><p class=hint-container-title>Mind</p><p>Do.</div>"
            ),
            "**Mac**\n\nm\n\n**Mind**\n\nDo.",
        ),
        (
            (
                "<div class=rp-tabs__label><div>Mac</div><div>PC</div></div><div class=rp-tabs__content__item aria-hidden=false>m</div>"
                "<div class=rp-tabs__content__item aria-hidden=true>p</div>"
            ),
            "**Mac**\n\nm\n\n**PC**\n\np",
        ),
        ("<doc-tab><template #title>Mac</template> <p>m</p></doc-tab>", "**Mac**\n\nm"),
        ('<pre><div class="line">a</div><div class="line"></div><div class="line">b</div></pre>', "```\na\n\nb\n```"),
        (
            (
                "<figure><pre><code class=language-ruby data-lang=ruby><table><tr><td class=gutter><pre class=lineno>1\n2\n</pre>"
                "<td class=code><pre>def a\nend\n</pre></table></code></pre></figure>"
            ),
            "```ruby\ndef a\nend\n```",
        ),
        (
            (
                "<table><tr><td><pre><code><span>8\n</span><span>9\n</span></code></pre>"
                "<td><pre><code class=language-go>a\nb</code></pre></table>"
            ),
            "```go\na\nb\n```",
        ),
        ("<table><tr><td><pre>1\n2</pre><td>b</table>", "```\n1\n2\n```\n\nb"),
        ("<pre>a ``` b</pre>", "````\na ``` b\n````"),
        ("<p hidden>no<p aria-hidden=true>no<p>yes<script>no()</script><template>no</template>", "yes"),
        ("<p>soft\u00adhyphen and\u00a0blank</p>", "softhyphen and blank"),
        ("<p>کتاب\u200cخانه</p>", "کتاب\u200cخانه"),  # noqa: RUF001
        ("<noscript><p>Enable scripts.</noscript><p>All the text.</p>", "All the text."),
        (
            (
                "<p>Use <a href='fnmatch.html#fnmatch.filter'><code>filter()</code></a>, <a href=#footnotes>Footnotes</a> and "
                "<a href=#citation>Citing</a><a href=#fn1>1</a><sup>[<a href=#_footnotedef_2>2</a>]</sup><a href=#x role=doc-noteref>*</a></p>"
            ),
            "Use `filter()`, Footnotes and Citing",
        ),
        ("<p><code>one<br>two</code></p>", "`one two`"),
        (
            "<table><tr><th>Board<th>Pin<th>Volts<tr><td rowspan=2>Uno<td>D1<td>5<tr><td>D2<td>3<tr><td colspan=2>Others<td>0</table>",
            "| Board | Pin | Volts |\n| --- | --- | --- |\n| Uno | D1 | 5 |\n| Uno | D2 | 3 |\n| Others | Others | 0 |",
        ),
        (
            "<table><tr><td rowspan=0>a<td rowspan=2 colspan=2>b<tr><tr><td>c</table>",
            "|  |  |  |\n| --- | --- | --- |\n| a | b | b |\n| a | b | b |\n| a | c |  |",
        ),
        (
            (
                "<div class='admonitionblock warning'><table><tr><td class=icon><i class='fa icon-warning' title=Warning></i>"
                "<td class=content><p>Hot!</table></div><div class='admonitionblock tip'><table><tr><td class=icon>"
                "<div class=title>Tip</div><td class=content>Oil it.</table></div>"
            ),
            "**Warning**\n\nHot!\n\n**Tip**\n\nOil it.",
        ),
    ],
)
def test_what_an_article_has_becomes_markdown(html: str, expected: str) -> None:
    assert text(f"<main>{html}</main>") == expected


def test_an_anchor_is_one_that_leads_to_its_heading() -> None:
    body = f"""<main><h1 id="top">T</h1><p>a</p>
        <h2 id="same">One</h2><p>b</p><section id="s"><p>before</p><h3>No id</h3><p>c</p></section>
        <h2 id="same">Two</h2><p>d</p><a id="named"></a><h2>Three</h2><p>e</p><h3>Below</h3><p>f</p>
        <div id="wrapper"><div><h2>Four</h2></div><p>g</p></div><h2 id="سلام">Five</h2><p>{LONG}</p></main>"""

    assert [(anchor, headings[-1:]) for anchor, headings, _ in sections(page(body))] == [
        ("", ()),
        ("same", ("One",)),
        ("same", ("No id",)),
        ("", ("Two",)),
        ("named", ("Three",)),
        ("named", ("Below",)),
        ("wrapper", ("Four",)),
        ("سلام", ("Five",)),
    ]


def test_broken_html_is_read_as_browsers_read_it() -> None:
    html = "<title>T</title><p>one<p>two<ul><li>three<li>four</ul><b>five<i>six</b>seven</i> 1 < 2 &amp &nope; <h2 id=a>Eight<p>nine</div>"

    assert (
        "\n".join(said for _, _, said in sections(html))
        == "one\n\ntwo\n\n- three\n- four\n\nfivesixseven 1 < 2 & &nope;"
    )


@pytest.mark.parametrize(
    ("content", "charset", "expected"),
    [
        ("<p>é".encode(), None, "<p>é"),
        ("<meta charset=latin1><p>é“".encode("cp1252"), None, "<meta charset=latin1><p>é“"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=gb2312">手'.encode("gbk"), None, "手"),
        ("日本".encode("shift_jis"), "Shift_JIS", "日本"),
        ("д".encode("koi8-r"), "koi8-r", "д"),
        ("é".encode("utf-16"), "utf-8", "é"),
        ("\ufeffé".encode(), "latin-1", "é"),
        ("é".encode("cp1252"), None, "é"),
        ("é".encode(), "no-such-charset", "é"),
        ("<meta charset=utf-16>é".encode(), "base64", "é"),
        ("<meta charset=utf-16>é".encode("utf-16-le"), None, "é"),
        ("<p>é".encode("utf-16-be"), None, "é"),
        ("<meta charset=windows-1251>Привет".encode("cp1251"), None, "Привет"),
        ("<meta charset=utf-8>Привет".encode("cp1251"), "windows-1251", "Привет"),
        ("<meta charset=x-cp1251>Привет".encode("cp1251"), None, "Привет"),
        ("<meta charset=x-sjis>日本".encode("shift_jis"), None, "日本"),
        ("<meta charset=x-gbk>手".encode("gbk"), None, "手"),
        ("<meta charset=x-mac-roman>é".encode("mac-roman"), None, "é"),
        ("<meta charset=windows-874>ไทย".encode("cp874"), None, "ไทย"),
        ("<meta charset=unicode-1-1-utf-8>é".encode(), None, "é"),
        ("<meta charset=x-x-big5>手".encode("big5"), None, "手"),
        ("<meta charset=iso-8859-8-i>א".encode("iso8859-8"), None, "א"),
        ("<!-- <meta charset=koi8-r> --><meta charset=utf-8>é".encode(), None, "é"),
        ("<script>'<meta charset=koi8-r>'</script>é".encode(), None, "é"),
        ('<meta name=description content="charset=koi8-r">é'.encode(), None, "é"),
    ],
)
def test_a_page_is_decoded_as_browsers_decode_it(content: bytes, charset: str | None, expected: str) -> None:
    assert decoded(content, charset).endswith(expected)


def test_pages_have_the_addresses_of_their_files_their_canonical_links_or_their_sitemap(tmp_path: Path) -> None:
    canonical = '<link rel="canonical" href="{}">'
    build(
        tmp_path,
        **{
            "index.html": page("<main><h1>Home</h1><p>Hello.</main>"),
            "a/index.html": page("<main><h1>A</h1><p>Text a.</main>"),
            "b.html": page("<main><h1>B</h1><p>Text b.</main>", head=canonical.format(f"{URL}beta/")),
            "c d.html": page("<main><h1>C</h1><p>Text c.</main>", head=canonical.format("https://elsewhere.org/c")),
            "clean.html": page("<main><h1>E</h1><p>Text e.</main>", head=canonical.format(URL)),
            "wrong.html": page("<main><h1>F</h1><p>Text f.</main>", head=canonical.format(URL)),
            "first.html": page("<main><h1>G</h1><p>Text g.</main>", head=canonical.format(f"{URL}all")),
            "second.html": page("<main><h1>H</h1><p>Text h.</main>", head=canonical.format(f"{URL}all")),
            "sitemap.xml": "<urlset><url><loc>http://localhost:3000/docs/clean</loc></url></urlset>",
        },
    )

    book = read(tmp_path)

    assert {chunk.title: chunk.source.removeprefix(URL) for chunk in book.chunks} == {
        "Home": "",
        "A": "a/",
        "B": "beta/",
        "C": "c%20d.html",
        "E": "clean",
        "F": "wrong.html",
        "G": "first.html",
        "H": "second.html",
    }
    assert (book.pages, book.skipped) == (8, [])


def test_what_is_no_page_of_the_book_is_left_out_and_named(tmp_path: Path) -> None:
    article = "<main><h1>A</h1><p>Text.</main>"
    build(
        tmp_path,
        **{
            "index.html": page(article),
            "404.html": page("<main><p>Not found.</main>"),
            "again.html": page(article),
            "empty.html": page("<main></main>"),
            "genindex.html": page("<main><p>Index of terms.</main>"),
            "hidden.html": page("<main><p>Hidden.</main>", head='<meta name="robots" content="noindex, follow">'),
            "hidden_too.html": page("<main><p>Hidden.</main>", head='<META NAME="ROBOTS" CONTENT="NOINDEX">'),
            "huge.html": "<p>" + "x" * 5_000_001,
            "moved.html": page("<p>Moved.", head='<meta http-equiv="refresh" content="0; url=index.html">'),
            "print.html": page("<main><p>Everything.</main>"),
            "search.html": page("<main><h1>Search</h1><p>Type here.</main>"),
            "_static/x.html": page(article),
            "secret/b.html": page("<main><p>Secret.</main>"),
        },
    )
    (tmp_path / "link.html").symlink_to("/etc/hostname")

    book = read(tmp_path, "secret/**")

    assert [chunk.source for chunk in book.chunks] == [URL]
    assert {skipped.file: skipped.reason for skipped in book.skipped} == {
        "404.html": "is no page of the book, by its name",
        "again.html": "is the same page as index.html",
        "empty.html": "says nothing",
        "genindex.html": "is no page of the book, by its name",
        "hidden.html": "is not to be indexed (noindex)",
        "hidden_too.html": "is not to be indexed (noindex)",
        "huge.html": "is larger than 5 MB",
        "link.html": "leads out of the folder",
        "moved.html": "only leads to another page (meta refresh)",
        "print.html": "is no page of the book, by its name",
        "search.html": "is no page of the book, by its name",
    }


def test_a_page_without_a_heading_is_named_by_its_title_without_the_name_of_the_site(tmp_path: Path) -> None:
    for name in ("arms", "legs", "toes"):
        build(
            tmp_path,
            **{f"{name}.html": page(f"<main><p>About {name}.</main>", title=f"{name} — My Book 1.0", lang="pt_BR")},
        )

    book = read(tmp_path)

    assert [chunk.title for chunk in book.chunks] == ["arms", "legs", "toes"]
    assert book.locale == "pt-BR"


def test_a_folder_without_a_page_is_refused(tmp_path: Path) -> None:
    build(tmp_path, **{"index.html": page("")})

    with pytest.raises(TreeError, match=r"(?s)has no page that can be read.*index\.html says nothing"):
        read(tmp_path)


def test_sitemaps_are_read_with_namespaces_images_and_errors() -> None:
    sitemap = (
        '<?xml version="1.0"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9" xmlns:image="http://i">'
        "<url><loc> https://a/1&amp;2 </loc><image:image><image:loc>https://a/i.png</image:loc></image:image></url>"
        "<url><loc><![CDATA[https://a/3]]></loc></url><url><broken"
    )

    assert locations(sitemap.encode()) == (["https://a/1&2", "https://a/3"], [])
    assert locations(b"<sitemapindex><sitemap><loc>https://a/s.xml</loc></sitemap></sitemapindex>") == (
        [],
        ["https://a/s.xml"],
    )
    assert locations(b"https://a/1\nhttps://a/2\n") == (["https://a/1", "https://a/2"], [])
    assert locations(b"<!doctype html><p>Not found") == ([], [])


@pytest.mark.slow
def test_a_page_that_takes_too_long_or_ends_its_process_is_named_and_the_others_are_read(
    tmp_path: Path,
) -> None:
    build(
        tmp_path,
        **{
            "a.html": page("<main><p>Text a.</main>"),
            "deep.html": "<div>" * 100_000,
            "z.html": page("<main><p>Text z.</main>"),
        },
    )

    with Apart(seconds=1) as call:
        book = read_site(tmp_path, URL, call=call)

    assert [chunk.text for chunk in book.chunks] == ["Text a.", "Text z."]
    assert book.skipped == [Skipped("deep.html", "takes too much time or memory to read")]


def test_a_page_that_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    build(tmp_path, **{"a.html": page("<main><p>Text.</main>"), "b.html": page("<main>" + "<div>" * 2_000 + "x")})

    assert read(tmp_path).skipped == [Skipped("b.html", "is nested too deeply")]


def test_an_article_can_be_empty() -> None:
    assert isinstance(read_article(""), Article)
    assert read_article("").sections == []


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (f"<main><h1>A</h1><p>{LONG}</main><div>Between</div><main><h2 id=b>B</h2><p>{LONG}</main>", ["", "b"]),
        (f"<main hidden><h1>Old</h1><p>{LONG * 2}</main><main><h1>A</h1><p>{LONG}</main>", [""]),
        (f"<main><p>{LONG}<main><p>{LONG}</main></main>", [""]),
        (f"<main role=main><h1>A</h1><p>{LONG}</main>", [""]),
    ],
)
def test_of_several_main_parts_each_that_is_shown_is_read_once(body: str, expected: list[str]) -> None:
    read = sections(page(body))

    assert [anchor for anchor, _, _ in read] == expected
    assert "".join(said for _, _, said in read).count("A robot senses") == body.count("A robot") - (
        body.count("A robot") * 2 // 3 if "hidden" in body else 0
    )


@pytest.mark.parametrize(
    ("body", "anchor", "headings"),
    [
        (
            "<h2><button aria-expanded=false aria-controls=p id=q>Why?</button></h2><div id=p hidden>Text.</div>",
            "q",
            ("Why?",),
        ),
        ("<details><summary><h2 id=q>Why?</h2></summary>Text.</details>", "q", ("Why?",)),
        ("<div class=card-header><h2 id=q>Why?</h2></div><p>Text.", "q", ("Why?",)),
        ("<details id=q><summary>Why?</summary>Text.</details>", "", ()),
    ],
    ids=["accordion", "summary", "card", "without a heading"],
)
def test_what_folds_away_is_a_section_where_a_heading_folds_it(
    body: str, anchor: str, headings: tuple[str, ...]
) -> None:
    [*_, (found, path, said)] = sections(page(f"<main><h1>A</h1>{body}</main>"))

    assert (found, path) == (anchor, headings)
    assert said.endswith("Text.")


@pytest.mark.parametrize(
    "body",
    [
        f"<div id=header><h1>My Book</h1><p>A tagline.</div><ul><li>Menu</ul><div id=content><h2 id=b>B</h2><p>{LONG}</div><div>Copyright</div>",
        f"<header><h1>My Book</h1></header><div><h2 id=b>B</h2><div>{LONG}</div></div><footer>Copyright</footer>",
        f"<table><tr><td>Menu<td><h2 id=b>B</h2><p>{LONG}</table>",
    ],
    ids=["header by its id", "header", "table"],
)
def test_a_page_that_does_not_say_what_its_main_part_is_is_read_without_its_frame(body: str) -> None:
    assert sections(page(body)) == [("b", ("B",), LONG.strip())]


def test_links_are_relative_to_what_the_page_says() -> None:
    links = '<a href="b.html">1</a><a href="#c">2</a><a href="/d">3</a><a href="https://other.org/">4</a>'

    def found(base: str) -> set[str]:
        return set(read_article(page(f"<main>{links}</main>", head=f'<base href="{base}">')).links)

    assert found("../") == {"../b.html", "../#c", "/d", "https://other.org/"}
    assert found("/docs/") == {"/docs/b.html", "/docs/#c", "/d", "https://other.org/"}
    assert found("https://book.org/x/") == {
        "https://book.org/x/b.html",
        "https://book.org/x/#c",
        "https://book.org/d",
        "https://other.org/",
    }


@pytest.mark.parametrize(
    ("directives", "robot", "expected"),
    [
        ("noindex", "*", True),
        ("follow, NONE", "*", True),
        ("index, max-image-preview:none", "*", False),
        ("other-bot: noindex, nofollow", "book-chat", False),
        ("other-bot: nofollow, book-chat: noindex", "book-chat", True),
    ],
)
def test_only_what_is_said_to_us_keeps_a_page_out(directives: str, robot: str, expected: bool) -> None:  # noqa: FBT001
    assert is_noindex(directives, robot) is expected


def test_pages_that_only_look_like_others_are_read(tmp_path: Path) -> None:
    refresh = '<meta http-equiv="refresh" content="{};url=x.html">'
    build(
        tmp_path,
        **{
            "404/index.html": page(f"<main><h1>404 in HTTP</h1><p>{LONG * 2}</main>"),
            "_autosummary/arm.html": page("<main><h1>Arm</h1><p>Bends.</main>"),
            "_modules/arm.html": page("<main><h1>Source</h1><p>Code.</main>"),
            "bar.html": page("<main><h1>Bar</h1><p>The same.</main>"),
            "foo.html": page("<main><h1>Foo</h1><p>The same.</main>"),
            "login.html": page("<main><form>Sign in <input type=password></form></main>"),
            "php/print.html": page("<main><h1>Print</h1><p>Prints.</main>"),
            "print.function.html": page("<main><h1>Function</h1><p>Functions.</main>"),
            "slow.html": page("<main><h1>Slow</h1><p>Stays.</main>", head=refresh.format(1800)),
            "without.html": page("<main><h1>W</h1><p>Waits.</main>", head=f"<noscript>{refresh.format(0)}</noscript>"),
        },
    )

    book = read(tmp_path)

    assert {chunk.title for chunk in book.chunks} == {"Arm", "Bar", "Foo", "Function", "Print", "Slow", "W"}
    assert {skipped.file: skipped.reason for skipped in book.skipped} == {
        "404/index.html": "is no page of the book, by its name",
        "login.html": "asks for a password",
    }


def test_a_site_is_called_what_its_titles_share(tmp_path: Path) -> None:
    titles = {"index": "My Book", "arms": "Arms - My Book", "io": "Input - Output - My Book", "more": "My Book | More"}
    build(
        tmp_path,
        **{f"{name}.html": page(f"<main><p>About {name}.</main>", title=said) for name, said in titles.items()},
    )

    book = read(tmp_path)

    assert book.title == "My Book"
    assert {chunk.title for chunk in book.chunks} == {"My Book", "Arms", "Input - Output", "More"}


@pytest.mark.parametrize(
    "table",
    ["<tr>" + "<td>x" * 2_000 + "<tr><td>y" * 3_000, f"<tr><td rowspan=0 colspan=50>{'x' * 200}" + "<tr><td>y" * 3_000],
    ids=["a wide row", "a cell that spans all"],
)
def test_a_small_table_does_not_become_large(table: str) -> None:
    assert len(text(f"<main><table>{table}</table></main>")) < 1_000_000


def test_who_is_quoted_and_what_a_citation_is_called_stay() -> None:
    assert text("<main><blockquote>Walk. <footer>Ada</footer></blockquote></main>") == "> Walk.\n>\n> Ada"
    assert text("<main><p><a role=doc-backlink href='#i'>Ada</a> 1843 <a role=doc-backlink href='#i'>1</a></main>") == (
        "Ada 1843"
    )


def test_canonical_links_hold_whether_they_say_http_or_https(tmp_path: Path) -> None:
    for name, href in (("a", "http://BOOK.example.org/docs/alpha"), ("b", "https://book.example.org:443/docs/beta")):
        head = f'<link rel="canonical" href="{href}">'
        build(tmp_path, **{f"{name}.html": page(f"<main><h1>{name}</h1><p>Text {name}.</main>", head=head)})

    assert [chunk.source.removeprefix(URL) for chunk in read(tmp_path).chunks] == ["alpha", "beta"]


def test_names_in_capitals_are_read_too(tmp_path: Path) -> None:
    build(tmp_path, **{"INDEX.HTM": "<HTML LANG=ur><BODY><MAIN><H1>A</H1><P>Text.<H2 ID=Bee>B</H2><P>" + LONG})

    assert [chunk.source.removeprefix(URL) for chunk in read(tmp_path).chunks] == ["INDEX.HTM#Bee"]


@pytest.mark.parametrize(
    "frame",
    [
        "<div><p>Next: <a href=b.html rel=next>Legs</a>, Up: <a href=i.html rel=up>Robots</a> [<a href=c.html rel=contents>Contents</a>]</div>",
        "<a href=a.html><img src=p.svg alt=Previous></a><a href=b.html><img src=n.svg alt=Next></a><hr>",
        "<table><tr><td><a accesskey=p href=a.html>Zurück</a><td><a accesskey=n href=b.html>Weiter</a></table>",
        "<p>← <a href=a.html>Previous page</a> | <a href=#top>Back to top</a></p>",
        "<div class=foot><a href=e>Edit this page on GitHub</a> · <a href=r>Report an issue</a></div>",
        "<h2>On this page</h2><ul><li><a href=#elbow>The elbow</a></li></ul>",
        "<div><p>本页目录<div><ul><li><a href=#elbow>1</a></ul></div></div>",
        "<ul><li>1. <a href=#elbow>The elbow</a><ul><li><a href=#knee>2. A knee</a></ul></ul>",
        "<p><a href=#elbow>¶</a></p>",
    ],
    ids=["texinfo", "images", "keys", "words", "edit", "contents", "contents in Chinese", "headings", "permalink"],
)
def test_what_only_leads_elsewhere_is_left_out(frame: str) -> None:
    body = f"<main>{frame}<p>Text.</p><h2 id=elbow>The elbow</h2><p>It bends.</p><h2 id=knee>A knee</h2><p>It too.</p></main>"

    assert text(body) == "Text.\n\nIt bends.\n\nIt too."


@pytest.mark.parametrize(
    "said",
    [
        "<p>Press <a href=b.html>Next</a> twice.</p>",
        "<ul><li><a href=b.html>Next steps</a></li><li><a href=i.html>Index</a></li></ul>",
        "<ul><li><a href=#a>Arms</a> bend.</li><li><a href=#b>Legs</a> walk.</li></ul>",
        "<ul><li><a href=b.html>Arms</a></li><li><a href=c.html>Legs</a></li></ul>",
        "<p>Contents</p><ul><li><a href=b.html>Arms</a></li></ul>",
    ],
)
def test_links_that_say_something_stay(said: str) -> None:
    plain = "".join(text(f"<main>{said}<h2 id=a>Arms</h2><p>.</p><h2 id=b>Legs</h2><p>.</p></main>").split())

    assert all(word in plain for word in said.replace("<", " <").replace(">", "> ").split() if word.isalpha())


def test_the_beginning_of_a_chapter_is_not_lost_to_its_longest_section() -> None:
    body = f"""<div class="chapter" id="arms"><div class="titlepage"><h2 class="title">Arms</h2></div><p>Intro.</p>
        <div class="sect1" id="elbow"><div class="titlepage"><h2>Elbow</h2></div><p>{LONG}</p>
        <div class="note"><h3 class="title">Note</h3><p>Mind.</p></div></div></div>"""

    assert sections(page(body)) == [
        ("", ("Arms",), "Intro."),
        ("elbow", ("Elbow",), f"{LONG.strip()}\n\n**Note**\n\nMind."),
    ]


def test_a_title_that_is_no_heading_is_the_title() -> None:
    body = f"""<div id="titlearea"><div id="projectname">Robots</div></div><div id="doc-content"><div class="header">
        <div class="headertitle"><div class="title">The guide</div></div></div><div class="contents"><div class="textblock">
        <h1><a class="anchor" id="intro"></a>Introduction</h1><p>{LONG}</p><div class="fragment"><div class="line">int a;</div>
<div class="line">int b;</div></div></div></div></div><ul><li class="footer">Generated</li></ul>"""
    article = read_article(page(body, title="Robots: The guide"))

    assert article.heading == "The guide"
    assert sections(page(body, title="Robots: The guide")) == [
        ("intro", ("Introduction",), f"{LONG.strip()}\n\n```\nint a;\nint b;\n```")
    ]


@pytest.mark.parametrize("title", ["Robots: {}", "{} (Robots)"])
def test_the_name_of_a_site_is_found_before_and_behind_titles(tmp_path: Path, title: str) -> None:
    for name in ("Arm: bend", "Leg", "Toe (left)"):
        build(tmp_path, **{f"{name}.html": page(f"<main><p>About {name}.</main>", title=title.format(name))})

    book = read(tmp_path)

    assert book.title == "Robots"
    assert {chunk.title for chunk in book.chunks} == {"Arm: bend", "Leg", "Toe (left)"}


def test_a_site_is_called_what_its_pages_call_the_first_of_them(tmp_path: Path) -> None:
    build(
        tmp_path,
        **{
            "a.html": page("<main><p>A.</main>", title="A", head='<link rel="home" href="index.html" title="Robots">'),
            "b.html": page("<main><p>B.</main>", title="B", head='<link rel="home" href="index.html" title="Home">'),
            "search/c.html": page("<main><p>No matches.</main>", title="C"),
        },
    )

    book = read(tmp_path)

    assert (book.title, book.pages) == ("Robots", 2)


def test_the_language_can_be_that_of_the_body() -> None:
    assert read_article('<html><body lang="de"><p>Arm.').language == "de"


def test_the_first_page_of_a_site_is_called_as_the_site_is(tmp_path: Path) -> None:
    head = '<meta property="og:site_name" content="Robots">'
    build(
        tmp_path,
        **{
            "index.html": page("<main><p>Welcome.</main>", title="Robots | Arms and legs", head=head),
            "arms.html": page("<main><p>Bend.</main>", title="Arms | Robots", head=head),
        },
    )

    assert [chunk.title for chunk in read(tmp_path).chunks] == ["Robots", "Arms"]


def test_a_page_with_several_headings_of_the_first_level_is_called_as_the_one_outside_says(tmp_path: Path) -> None:
    for name in ("Arms", "Legs"):
        body = f"""<div id="page"><div id="header"><h1>Robots : {name}</h1></div><div id="content"><div id="main-content"><p>{name}. {LONG}</p>
            <h1 id="joints">Joints</h1><p>They bend.</p><h1 id="motors">Motors</h1><p>They turn.</p></div></div></div>"""
        build(tmp_path, **{f"{name}.html": page(body, title=f"Robots : {name}")})

    book = read(tmp_path)

    assert book.title == "Robots"
    assert {chunk.title.split()[0] for chunk in book.chunks} == {"Arms", "Legs"}
    assert f"{URL}Legs.html#joints" in {chunk.source for chunk in book.chunks}


def test_a_heading_stays_whole_if_the_site_has_another_name(tmp_path: Path) -> None:
    build(tmp_path, **{"a.html": page("<main><h1>Arms - left</h1><p>A.</main>", title="Arms - left")})

    assert [chunk.title for chunk in read(tmp_path).chunks] == ["Arms - left"]


def test_what_wikis_and_blogs_add_to_an_article_is_left_out() -> None:
    body = f"""<main><h1>Arm</h1><div class="noprint">From the wiki</div><p>{LONG}</p><h2><span id="Elbow">Elbow</span>
        <span class="mw-editsection">[<a href="e">edit</a>]</span></h2><div class="mw-highlight mw-highlight-lang-go"><pre>a
        </pre></div><div class="comment-respond"><h3>Leave a reply</h3><p>Your address is not shown.</p></div></main>"""

    assert sections(page(body)) == [("", (), LONG.strip()), ("Elbow", ("Elbow",), "```go\na\n```")]


def test_of_the_articles_on_the_first_page_of_a_blog_none_is_lost() -> None:
    frame = "<aside><h3>Tags</h3><ul><li><a href=t>arm</a></ul><h3>All</h3><ul><li><a href=l>Legs</a></ul></aside>"
    body = f"""<div id="all">{frame}<section id="posts"><article><h1>Arms</h1><p>{LONG}</p></article><article><h1>Legs</h1>
        <p>Walk.</p></article></section></div>"""

    assert [(headings, said) for _, headings, said in sections(page(body))] == [
        ((), LONG.strip()),
        (("Legs",), "Walk."),
    ]


def test_a_page_that_only_scripts_fill_says_so(tmp_path: Path) -> None:
    script = "<script src=x.js></script>"
    build(
        tmp_path,
        **{
            "index.html": page(f"<noscript>Enable JavaScript.</noscript><div id=app>Please wait...</div>{script}"),
            "empty.html": page(f"<div id=root></div>{script}"),
            "short.html": page(f"<div id=app><main>Arms bend.</main></div>{script}"),
        },
    )

    book = read(tmp_path)

    assert [chunk.text for chunk in book.chunks] == ["Arms bend."]
    assert {skipped.reason for skipped in book.skipped} == {"says nothing until a browser runs its scripts"}


def test_what_is_no_folder_of_pages_is_refused_with_what_to_do(tmp_path: Path) -> None:
    build(tmp_path, **{"site.zip": "PK", "a.html": page("<p>A.")})
    (tmp_path / "empty").mkdir()

    with pytest.raises(TreeError, match=r"an archive\. Unpack it"):
        read(tmp_path / "site.zip")
    with pytest.raises(TreeError, match=r"a file\. Name the folder"):
        read(tmp_path / "a.html")
    with pytest.raises(TreeError, match="is empty"):
        read(tmp_path / "empty")


def test_the_name_of_a_site_is_no_title_of_a_page() -> None:
    body = f"""<div><header><a class="navbar-brand" href="/"><p class="title">My Book</p></a></header><div><p class="title">My Book</p>
        </div><main><h1>Arms</h1><p>{LONG}</p><h1 id="b">Legs</h1><p>Walk.</p></main></div>"""

    assert read_article(page(body)).heading == "Arms"
    assert read_article(page(body.replace("<h1>Arms</h1>", "<h1>About arms</h1>"))).heading == "About arms"
