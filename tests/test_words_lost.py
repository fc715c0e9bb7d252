"""How many of the words that a built page shows reach the chunks, on the pages that generators really make."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from selectolax.lexbor import LexborHTMLParser

from app.book.shelf import SEPARATOR
from app.book.site import SUFFIXES, read_site
from tests.browser import built_site
from tests.sites import built

if TYPE_CHECKING:
    from app.book.chunks import Chunk

URL = "https://book.example.org/"
MOST_LOST = 0.01

# What the themes call the text of a page, and what in it is none of its words.
ARTICLES = (
    "article.md-content__inner, #furo-main-content, div.body[role=main], article.bd-article, .vp-doc, "
    ".theme-doc-markdown, main#words"
)
NO_WORDS = (
    "script, style, template, nav, svg, button, .headerlink, .header-anchor, .hash-link, .md-content__button, "
    ".md-source-file, .linenos, .katex, .tabbed-labels a, .footnote-backref, .footnote-ref, .footnote-reference, .backrefs, "
    ".footnote > .label"
)

MARKDOWN = """# Arms

Intro with *emphasis*, `code`, a [link](#elbow), H~2~O and x^2^. Press ++ctrl+alt+k++.

!!! warning "Mind the gap"

    Never stand below the arm.

??? note "For the curious"
    Hidden at first, and a list:

    1. first
    2. second

        with a paragraph

## The elbow { #elbow .wide }

=== "Python"

    ``` python title="bend.py" linenums="1"
    def bend(angle: float) -> None:
        print(angle)  # (1)!
    ```

    1.  This is an annotation of a line.

=== "C++"

    ``` c++
    void bend(double angle);
    ```

Gripper
:   What takes hold.
:   A second definition.

| Joint | Range |
|-------|------:|
| Elbow | 140°  |
| Wrist | `±90` |

- [x] oiled
- [ ] calibrated

> A quotation
>
> of two paragraphs.

Energy is \\(E = mc^2\\), and[^1]

$$
\\sum_{i=1}^n i
$$

<figure markdown="span">
  ![An arm seen from the side](arm.png)
  <figcaption>The arm, from its side</figcaption>
</figure>

The HTML specification is by the W3C.

*[HTML]: Hyper Text Markup Language

[^1]: The footnote's own text.
"""
MKDOCS = """
site_name: Book
theme: {name: material, font: false, features: [content.code.annotate, content.code.copy]}
markdown_extensions:
  - abbr
  - admonition
  - attr_list
  - def_list
  - footnotes
  - md_in_html
  - tables
  - toc: {permalink: true}
  - pymdownx.arithmatex: {generic: true}
  - pymdownx.caret
  - pymdownx.details
  - pymdownx.highlight: {anchor_linenums: true}
  - pymdownx.keys
  - pymdownx.superfences
  - pymdownx.tabbed: {alternate_style: true}
  - pymdownx.tasklist: {custom_checkbox: true}
  - pymdownx.tilde
"""
RST = """
Arms
====

Intro with *emphasis*, ``code``, :ref:`elbow`, :kbd:`Ctrl+C`, :menuselection:`File --> Open`, H\\ :sub:`2`\\ O.

.. warning:: Never stand below the arm.

.. admonition:: Mind the gap

   With a list:

   * first
   * second

.. _elbow:

The elbow
---------

.. versionadded:: 2.0
   It bends.

.. code-block:: python
   :linenos:
   :caption: bend.py
   :emphasize-lines: 2

   def bend(angle: float) -> None:
       print(angle)

.. function:: bend(angle: float, *, slowly: bool = True) -> None

   Bend the elbow.

   :param angle: how far
   :raises ValueError: if it is too far
   :returns: nothing

.. class:: Arm(name)

   Has joints.

   .. attribute:: name
      :type: str

      What it is called.

.. glossary::

   Gripper
      What takes hold.

   Wrist
   Carpus
      What turns it.

.. list-table:: Ranges
   :header-rows: 1

   * - Joint
     - Range
   * - Elbow
     - 140°
   * - Wrist
     - | plus
       | minus

.. math:: E = mc^2
   :label: energy

See :eq:`energy` and :term:`Gripper`. A note [#one]_ and a citation [Ada]_.

.. figure:: arm.png
   :alt: An arm seen from the side

   The arm, from its side

   A legend below.

.. topic:: An aside

   With words.

.. sidebar:: Beside it

   More words.

| Lines of
| a poem

:Author: Ada
:Version: 1

-v   be verbose
--help  show help

>>> bend(3)
None

.. rubric:: Notes

.. [#one] The footnote's own text.
.. [Ada] Lovelace, 1843.
"""


_BLOCK_END = re.compile(
    r"</(?:p|div|li|t[dhr]|d[dt]|h[1-6]|pre|summary|figcaption|caption|label|blockquote|aside)>|<br>"
)


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text.lower()))


def lost(folder: Path) -> tuple[float, list[str], int]:
    """The share of the words of the folder's articles that reach no chunk, those words, and how many there were."""
    book = read_site(folder, URL)
    by_page: dict[str, list[Chunk]] = {}
    for chunk in book.chunks:
        by_page.setdefault(chunk.page, []).append(chunk)
    total, missing = 0, Counter[str]()
    skipped = {skipped.file for skipped in book.skipped}
    for path in sorted(folder.rglob("*")):
        file = path.relative_to(folder).as_posix()
        if path.suffix not in SUFFIXES or file in skipped:
            continue
        tree = LexborHTMLParser(_BLOCK_END.sub(r"\g<0> ", path.read_text()))
        for node in tree.css(NO_WORDS):
            node.decompose()
        article = tree.css_first(ARTICLES)
        if article is None:
            continue
        chunks = next((by_page[key] for key in _addresses(file) if key in by_page), [])
        headings = {part for chunk in chunks for part in chunk.title.split(SEPARATOR)}
        shown = _words(article.text())
        missing += shown - _words(" ".join([*headings, *(chunk.text for chunk in chunks)]))
        total += shown.total()
    return missing.total() / max(1, total), sorted(missing.elements()), total


def _addresses(file: str) -> list[str]:
    stem = file.removesuffix(".html")
    return [
        URL + path for path in (file, file.removesuffix("index.html"), stem, f"{stem}/", stem.removesuffix("/index"))
    ]


def test_of_a_page_with_everything_no_word_is_lost(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        """<html lang="en"><title>Arms</title><body><nav>Nav</nav><main id="words"><h1 id="arms">Arms</h1><p>Intro with
        <em>emphasis</em>, <a href="x">a link</a> and H<sub>2</sub>O.</p>
        <div class="admonition"><p class="admonition-title">Mind</p><p>the gap</p></div>
        <details><summary>Curious</summary><ol><li><p>first</p><p>paragraph</p></li></ol></details>
        <h2 id="elbow">The elbow</h2><h3>Its text</h3>
        <dl class="py function"><dt class="sig" id="bend"><span>bend</span>(<em><span>angle</span></em>)</dt>
        <dd><p>Bends.</p><dl class="field-list"><dt>Parameters</dt><dd><p><strong>angle</strong> far</p></dd></dl></dd></dl>
        <table><caption>Ranges</caption><tr><th>Joint</th></tr><tr><td><ul><li>Elbow</li></ul></td><td><pre>code</pre></td></tr></table>
        <figure><img alt="An arm" src="a.png"><figcaption>Caption</figcaption></figure>
        <blockquote>Quoted <footer>by Ada</footer></blockquote>
        <aside class="footnote"><p>1</p><p>Footnote.</p></aside><address>Here</address>
        <label>Labelled</label><p><ruby>字<rt>reading</rt></ruby> Last<ins>ed</ins> <mark>mark</mark>.</p>
        <div class="line-block"><div class="line">a poem</div></div></main></body></html>"""
    )

    share, words, total = lost(tmp_path)

    assert (share, words) == (0, [])
    assert total == 41


@pytest.mark.slow
def test_of_a_page_of_material_for_mkdocs_hardly_a_word_is_lost(tmp_path: Path) -> None:
    pytest.importorskip("material")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text(MARKDOWN)
    (tmp_path / "mkdocs.yml").write_text(MKDOCS)
    _run(tmp_path, "mkdocs", "build", "-q", "-d", "site")

    assert_hardly_lost(tmp_path / "site")


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["furo", "pydata_sphinx_theme", "alabaster"])
def test_of_a_page_of_sphinx_hardly_a_word_is_lost(theme: str, tmp_path: Path) -> None:
    pytest.importorskip("furo")
    (tmp_path / "index.rst").write_text(RST)
    (tmp_path / "conf.py").write_text(f"html_theme = {theme!r}\nextensions = ['sphinx.ext.mathjax']\nnumfig = True\n")
    _run(tmp_path, "sphinx", "-q", "-b", "html", ".", "site")

    assert_hardly_lost(tmp_path / "site")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vitepress", "material", "furo", "pydata"])
def test_of_the_sites_of_the_widgets_tests_hardly_a_word_is_lost(name: str) -> None:
    assert_hardly_lost(built(name))


@pytest.mark.slow
def test_of_a_docusaurus_site_hardly_a_word_is_lost() -> None:
    assert_hardly_lost(built_site())


def assert_hardly_lost(folder: Path) -> None:
    share, words, total = lost(folder)
    print(f"{share:.2%} of {total} words lost: {words}")  # noqa: T201  # pytest shows it with -s.
    assert total > 30
    assert share <= MOST_LOST, words


def _run(folder: Path, *command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, check=False, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
