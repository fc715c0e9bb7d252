"""Pages that were made to take long: the time to read one grows with its length, and not with the square of it."""

import time
from collections.abc import Callable

import pytest

from app.book.article import read_article
from app.book.chunks import chunk_page
from app.book.words import searchable

pytestmark = pytest.mark.slow

GROWTH = 6
MOST = 3.0
"""Were the time to grow with the square of the length, this would be the growth; as it should be, it is 1."""


def growth(read: Callable[[int], object], length: int) -> float:
    """How much more time each piece takes in a page so many times longer; measured anew if it is much, since others work here too."""

    def seconds(count: int) -> float:
        before = time.process_time()
        read(count)
        return time.process_time() - before

    read(10)
    ratios = [seconds(length * GROWTH) / max(seconds(length), 1e-3) / GROWTH]
    while ratios[-1] >= MOST and len(ratios) < 3:
        ratios.append(seconds(length * GROWTH) / max(seconds(length), 1e-3) / GROWTH)
    return min(ratios)


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "{/*",
            "{/* a */}",
            "{`",
            "<A b={'",
            '<a b="',
            "<!--",
            "import a from '",
            "export const a = `${",
            "<Tabs>\n\n",
        ),
        *("## A {#", "## A { #a .b\n\n", "$$\n", "```\n", ":::note[", "[^1]: ", "| a ", "> - ", "\\(", "**a", "&amp;"),
    ],
)
def test_markdown(piece: str) -> None:
    def read(count: int) -> object:
        return chunk_page(piece * count, page="https://book.example.org/a", title=None, fallback="A", is_mdx=True)

    assert growth(read, 300) < MOST


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "<p>\\(",
            "<a href=x>",
            "<a href='",
            "<h2 id=a>b",
            '<b title="',
            "<!--",
            "<p><code>`",
            "<td>x|",
            "<dt>a<dd>b",
        ),
        *(
            "<div role=tab>a</div><div role=tabpanel aria-labelledby=b>c</div>",
            "<pre>a\n",
            "<br>",
            "&amp",
            "<span id=a>",
        ),
        *(
            "<img alt='a'>",
            "<math><mi>x</mi></math>",
            "<li>a",
            "<main>a</main>",
            "<article>a</article>",
            "<aside>a</aside>",
        ),
    ],
)
def test_html(piece: str) -> None:
    def read(count: int) -> object:
        try:
            return read_article(f"<title>A</title><main>{piece * count}")
        except RecursionError:  # It is named as nested too deeply.
            return None

    assert growth(read, 300) < MOST


@pytest.mark.parametrize("piece", ["a", "aB", "A", "a_", "日", "\u064b", "a\u0301"])
def test_words(piece: str) -> None:
    assert growth(lambda count: searchable(piece * count), 2_000) < MOST
