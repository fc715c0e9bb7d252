"""The chunks of a page: their addresses, their titles and their sizes."""

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.book.chunks import MAX_CHARS, Chunk, chunk_page

PAGE = "https://book.example.org/docs/page"
LONG = "A robot senses, decides and acts. " * 10
"""Long enough for a section of its own."""
TEXT = st.text(alphabet=st.sampled_from("a #-*`~$<>{}[]()!&|\\/\"'=:;.\n\t_1AT\u06a9"), max_size=300)


def chunks(text: str, *, title: str | None = None, is_mdx: bool = False) -> list[Chunk]:
    return chunk_page(text, page=PAGE, title=title, fallback="page", is_mdx=is_mdx)


def anchors(text: str, *, is_mdx: bool = False) -> list[str]:
    """The anchors of the page's sections, if each is given enough text."""
    lines = [f"{line}\n\n{LONG}\n" if line.startswith(("#", "---", "===")) else line for line in text.split("\n")]
    return [unquote(chunk.source.removeprefix(PAGE)) for chunk in chunks("\n".join(lines), is_mdx=is_mdx)]


# Each was checked with Docusaurus 3.10.2.
@pytest.mark.parametrize(
    ("headings", "expected"),
    [
        ("## What's new?\n## `useState()` \u2013 **dash** _it_ a_b", ["#whats-new", "#usestate--dash-it-a_b"]),
        ("## A\n## A\n## A-1\n## A", ["#a", "#a-1", "#a-1-1", "#a-2"]),
        ("## A {#x}\n## A\n## A {#x}", ["#x", "#a", "#x"]),
        ("## A {#Custom-Id_2} ##\n## B \\{#y}", ["#Custom-Id_2", "#y"]),
        (
            "## Tea \N{HOT BEVERAGE}\ufe0f time\n## \N{ROCKET} Launch\n## :rocket: Up",
            ["#tea-\ufe0f-time", "#-launch", "#rocket-up"],
        ),
        ("## \u00bd and \u00b2 and \u2163\n## \u24b6 \u0130", ["#-and--and-\u2173", "#\u24d0-i\u0307"]),
        (
            "## \u06a9\u06cc\u0627 \u06c1\u06d2\u061f\n## \u4f60\u597d\uff0c\u4e16\u754c",
            ["#\u06a9\u06cc\u0627-\u06c1\u06d2", "#\u4f60\u597d\u4e16\u754c"],
        ),
        ("## ros2:launch\n## `npm run a:b`\n## std::vector\n## 10:30", ["#ros2", "#npm-run-ab", "#stdvector", "#1030"]),
        ("## [Link](a_b.md) ![alt](x.png)\n## A &amp; B\n## $x_i$", ["#link-alt", "#a--b", "#x_i"]),
        ("## a\u00a0b\n##   spaced   out   ", ["#ab", "#spaced---out"]),
        ("Setext\n---\n## b", ["#setext", "#b"]),
    ],
)
def test_an_anchor_is_the_one_that_docusaurus_gives(headings: str, expected: list[str]) -> None:
    assert anchors(headings) == expected


@pytest.mark.parametrize(
    ("headings", "expected"),
    [
        ("## A {/* #x */}\n## B {/* note */}\n## C {1 + 1}", ["#x", "#b--note-", "#c-1--1"]),
        ('## <Icon name="x" /> A\n## B <Badge>new</Badge>\n## C <!-- c -->', ["#-a", "#b-new", "#c-"]),
    ],
)
def test_an_anchor_in_mdx_counts_what_docusaurus_counts(headings: str, expected: list[str]) -> None:
    assert anchors(headings, is_mdx=True) == expected


def test_mdx_has_no_indented_code() -> None:
    text = f"    ## A\n\n{LONG}"

    assert [chunk.source for chunk in chunks(text, is_mdx=True)] == [f"{PAGE}#a"]
    assert [chunk.source for chunk in chunks(text)] == [PAGE]


def test_headings_in_lists_and_quotations_count_but_begin_no_section() -> None:
    text = f"- ## A\n\n  {LONG}\n\n> ## A\n>\n> {LONG}\n\n## A\n\n{LONG}"

    assert [chunk.source for chunk in chunks(text)] == [PAGE, f"{PAGE}#a-2"]


@pytest.mark.parametrize(
    "block",
    [
        "```\n# no\n```",
        "~~~md\n## no\n```\n~~~",
        "````md\n```\n# no\n```\n````",
        "1. one\n   ```\n   # no\n   ```",
        "<!--\n## no\n-->",
        "{/*\n## no\n*/}",
        "<Comp data={`\n\n## no\n`} />",
        "export const a = `\n\n## no\n`;",
        "$$\nx\n=\ny\n$$",
        "| a |\n|---|\n| ## no |",
        "<h2>no</h2>",
        "<Foo>## no</Foo>",
        "<summary>## no</summary>",
        "<TabItem value='a'>## no</TabItem>",
    ],
)
def test_what_only_looks_like_a_heading_is_none(block: str) -> None:
    text = f"{LONG}\n\n{block}\n\n## Yes\n\n{LONG}"

    assert [chunk.source for chunk in chunks(text, is_mdx=True)] == [PAGE, f"{PAGE}#yes"]


def test_an_html_heading_has_only_the_anchor_that_it_brings() -> None:
    text = f'{LONG}\n\n<h2 id="own">One</h2>\n\n{LONG}\n\n## One\n\n{LONG}'

    assert [chunk.source for chunk in chunks(text)] == [PAGE, f"{PAGE}#own", f"{PAGE}#one"]


def test_text_before_any_heading_or_below_one_of_level_1_has_the_address_of_the_page() -> None:
    text = f"{LONG}\n\n# One\n\n{LONG}\n\n## A\n\n{LONG}\n\n# Two\n\n{LONG}\n\n## Two\n\n{LONG}"

    found = [chunk.source.removeprefix(PAGE) for chunk in chunks(text)]

    assert found == ["", "", "#a", "", "#two-1"]


def test_an_anchor_is_written_as_browsers_send_it() -> None:
    [chunk] = chunks(f"## \u06a9\u06cc\u0627\n\n{LONG}")

    assert chunk.source == f"{PAGE}#%DA%A9%DB%8C%D8%A7"


def test_a_title_is_the_path_of_headings() -> None:
    text = f"# Moving\n\n{LONG}\n\n## Gears\n\n### *Strain* `wave` [gears](x)\n\n{LONG}\n\n## Motors\n\n{LONG}"

    assert [chunk.title for chunk in chunks(text)] == [
        "Moving",
        "Moving \u203a Gears \u203a Strain wave gears",
        "Moving \u203a Motors",
    ]


@pytest.mark.parametrize(
    ("title", "text", "expected"),
    [
        ("Front", "# Moving\n\nText.", "Front"),
        (None, "# Moving\n\nText.", "Moving"),
        (None, "Text.\n\n# Later", "Later"),
        (None, "Text.", "page"),
        ("Moving", "# Moving\n\nText.", "Moving"),
    ],
)
def test_the_title_of_a_page_is_its_front_matters_or_its_heading(title: str | None, text: str, expected: str) -> None:
    assert chunks(text, title=title)[0].title == expected


def test_very_long_headings_leave_room_for_the_text() -> None:
    text = f"# {'Long ' * 1000}\n\n## {'long ' * 1000}\n\n### {'even longer ' * 1000}\n\n#### Last {'word ' * 20}\n\n{LONG * 20}"

    found = chunks(text)

    assert all(len(chunk.title) <= 400 for chunk in found)
    assert found[0].title.split(" \u203a ")[-1].startswith("Last")
    assert len(found[0].text) > MAX_CHARS / 2


def test_short_sections_are_joined_with_the_next_one_of_the_same_part() -> None:
    short = "A few words."
    text = f"{short}\n\n## A\n\n{LONG}\n\n## B\n\n### B1\n\n{short}\n\n## C\n\n{short}\n\n### C1\n\n{LONG}"

    found = [(chunk.source.removeprefix(PAGE), chunk.text) for chunk in chunks(text)]

    assert found == [
        ("#a", f"{short}\n\n## A\n\n{LONG.strip()}"),
        ("#b1", short),
        ("#c1", f"## C\n\n{short}\n\n### C1\n\n{LONG.strip()}"),
    ]


def test_positions_count_the_chunks_of_a_page() -> None:
    assert [chunk.position for chunk in chunks(f"{LONG}\n\n## A\n\n{LONG}\n\n## B\n\n{LONG}")] == [0, 1, 2]


@pytest.mark.parametrize("text", ["", "\n\n", "# Only a heading", "## A\n\n### B", "<DocCardList />", "---\n\n***"])
def test_a_page_without_text_has_no_chunks(text: str) -> None:
    assert chunks(text, is_mdx=True) == []


def parts(text: str) -> list[str]:
    found = chunks(text)
    assert len(found) > 1
    assert all(len(chunk.title) + 2 + len(chunk.text) <= MAX_CHARS for chunk in found)
    return [chunk.text for chunk in found]


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    sentence = "The robot walks over the hill and down into the valley."

    for part in parts(" ".join([sentence] * 100)):
        assert (part[:3], part[-7:]) == ("The", "valley.")


def test_a_long_table_is_cut_between_rows_and_each_part_has_its_head() -> None:
    head = "| number | square |\n|---|---|"
    rows = [f"| {number} | {number**2} |" for number in range(500)]

    found = parts("\n".join([head, *rows]))

    assert all(part.startswith(head) for part in found)
    assert [row for part in found for row in part.removeprefix(head).split("\n") if row] == rows


def test_long_code_is_cut_between_lines_and_each_part_is_fenced() -> None:
    functions = [f"def f{number}() -> int:\n    return {number}" for number in range(200)]

    found = parts("```python\n" + "\n\n".join(functions) + "\n```")

    assert all(part.startswith("```python\ndef") and part.endswith("\n```") for part in found)
    assert (
        "\n\n".join(part.removeprefix("```python\n").removesuffix("\n```") for part in found).split("\n\n") == functions
    )


def test_a_long_list_is_cut_between_items() -> None:
    items = [f"- Item {number} is about\n  two lines" for number in range(200)]

    assert all(part.startswith("- Item") and part.endswith("two lines") for part in parts("\n".join(items)))


def test_code_that_fits_is_never_cut() -> None:
    code = "```\n" + "line\n" * 250 + "```"

    assert code in parts(f"{LONG * 3}\n\n{code}\n\n{LONG * 3}")


@pytest.mark.parametrize(
    "text", ["x" * 10_000, "```\n" + "x" * 10_000 + "\n```", "\u06a9" * 9_000, "| a |\n|---|\n| " + "b " * 5_000 + "|"]
)
def test_what_has_no_good_place_is_cut_anywhere(text: str) -> None:
    words = re.findall(r"[xb\u06a9]", "".join(parts(text)))

    assert len(words) == len(re.findall(r"[xb\u06a9]", text))


def test_a_displayed_formula_stays_in_tex() -> None:
    [chunk] = chunks("Let\n\n$$\na\n=\nb^{2}\n$$\n\nbe so.\n\n> $$\n> c\n> $$")

    assert chunk.text == "Let\n\n$$\na\n=\nb^{2}\n$$\n\nbe so.\n\n> $$\n> c\n> $$"


def test_indented_text_of_components_is_moved_to_the_margin() -> None:
    [chunk] = chunks(
        "<Tabs>\n    <TabItem value='a'>\n\n    Text\n\n    ```py\n    if a:\n        b\n    ```\n\n    </TabItem>\n</Tabs>"
    )

    assert chunk.text == "**a**\n\nText\n\n```py\nif a:\n    b\n```"


@given(TEXT, st.booleans())
def test_any_page_has_chunks_of_the_right_size(text: str, is_mdx: bool) -> None:  # noqa: FBT001
    found = chunks(text * 5, is_mdx=is_mdx)

    assert [chunk.position for chunk in found] == list(range(len(found)))
    for chunk in found:
        assert chunk.text.strip()
        assert len(chunk.title) + 2 + len(chunk.text) <= MAX_CHARS
        assert not re.search("[\ufdd0-\ufdef]", chunk.title + chunk.text)
