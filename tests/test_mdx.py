"""What is left of a page's MDX: what its readers see."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.book.mdx import to_markdown

TEXT = st.text(alphabet=st.sampled_from("a #-*`~$<>{}[]()!&|\\/\"'=:;.\n\t_1AT"), max_size=200)


def read(text: str) -> str:
    """The page as MDX, without blanks around it and between its lines."""
    return "\n".join(line.rstrip() for line in to_markdown(text, is_mdx=True)[0].split("\n") if line.strip())


@pytest.mark.parametrize(
    ("page", "left"),
    [
        ("import A from 'a';\nimport {\n  B,\n\n  C\n} from 'b'\n\nText", "Text"),
        ("Text\n\nexport const A = ({x}) => (\n  <p>\n\n  {`}`} /* ) */\n\n  </p>\n);\n\nMore", "Text\nMore"),
        ("<!-- a note -->\nimport A from 'a'\n\nText", "Text"),
        ("Text\nimport is a word", "Text\nimport is a word"),
        ("Import taxes are high.\n\nexport them too.", "Import taxes are high.\nexport them too."),
        ("```js\nimport A from 'a'\n\n<A b={1} />\n```", "```js\nimport A from 'a'\n<A b={1} />\n```"),
    ],
)
def test_imports_and_exports_go_where_they_are_code(page: str, left: str) -> None:
    assert read(page) == left


@pytest.mark.parametrize(
    ("page", "left"),
    [
        ('Before <Icon name="x" a={{b: [1, "}"]}} {...c} /> after', "Before  after"),
        ("<Quiz\n  questions={[\n    {q: 'What?'},\n\n    {q: `Why ${`not`}?`},\n  ]}\n/>\n\nText", "Text"),
        ("<Card>\n  Inside **it**\n</Card>", "  Inside **it**"),
        ("a <b>bold</b> <span style={{color: 'red'}}>word</span>", "a bold word"),
        ("<></>Text<Comp.Part/>", "Text"),
        ('<img alt="A robot" src="a.png"/>\n\nx <img src={a} alt="arm" /> y', "x  arm  y"),
        ('<iframe class="a"src="b"></iframe>\n<script>var a = "<p>";</script>\n<style>{`p {}`}</style>\nText', "Text"),
        ("<ul>\n<li>one</li>\n<li>two</li>\n</ul>", "- one\n- two"),
        ("| a | b |\n|---|---|\n| c<br/>d | e |", "| a | b |\n|---|---|\n| c d | e |"),
        ("one<br/>two", "one two"),
        ("{/* a\n\nnote */}Text<!-- another\n\none -->", "Text"),
        ("a{' '}b {props.name} {`c`} {1 + 1} {x && <p>Don't</p>} d", "a b  c   d"),
        ("a \\{b\\} \\<c> `{d}` `<e>`", "a {b} <c> `{d}` `<e>`"),
        ("Tom &amp; Jerry &lt;3 &copy;&nbsp;x &unknown; AT&T", "Tom & Jerry <3 \N{COPYRIGHT SIGN} x &unknown; AT&T"),
        ("a < b and c > d, x<y, List<int>", "a < b and c > d, x<y, List<int>"),
    ],
)
def test_tags_comments_and_expressions_go_and_the_text_between_them_stays(page: str, left: str) -> None:
    assert read(page) == left


@pytest.mark.parametrize(
    ("page", "left"),
    [
        (
            "<Tabs>\n  <TabItem value='a' label='Static'>\n\n  One\n\n  </TabItem>\n<TabItem value='b'>\n\nTwo\n\n</TabItem>\n</Tabs>",
            "**Static**\n  One\n**b**\nTwo",
        ),
        (
            "<Tabs values={[{label: 'Shell', value: 'sh'}, {value: 'py', label: \"Python\"}]}>\n<TabItem value='sh'>One</TabItem>\n<TabItem value='py'>Two</TabItem>\n</Tabs>",
            "**Shell**\nOne\n**Python**\nTwo",
        ),
        ("<details>\n<summary>Why?</summary>\n\nBecause.\n\n</details>", "Why?\nBecause."),
        ("<Admonition title='Mind'>Text</Admonition>", "**Mind**\nText"),
        (":::tip\nText\n:::", "Text"),
        (":::danger[Hot *air*]\n\nText\n\n:::", "**Hot *air***\nText"),
        (":::note Old way\nText\n:::", "**Old way**\nText"),
        ("::::info A\n:::tip[B]\nText\n:::\n::::", "**A**\n**B**\nText"),
        ("> :::note[A]\n> Text\n> :::", ">\n> **A**\n>\n> Text\n>"),
        ("```md\n:::tip\n:::\n```", "```md\n:::tip\n:::\n```"),
        ("```mdx-code-block\n<A>\n\nText\n\n</A>\n```", "Text"),
    ],
)
def test_tabs_details_and_admonitions_keep_their_text_and_titles(page: str, left: str) -> None:
    assert read(page) == left


@pytest.mark.parametrize(
    ("page", "left"),
    [
        (
            "[text](https://a.b/c_(d) \"title\") and [more][ref] and [ref].\n\n[ref]: ./x.md 'y'",
            "text and more and ref.",
        ),
        ("![A robot](data:image/png;base64,AAAA) [![alt](a.png)](b.md)", "A robot alt"),
        ("[a `]` b](c)", "a `]` b"),
        ("A fact.[^1]\n\n[^1]: Its source.", "A fact.\nIts source."),
        ("- [ ] open\n- [x] done [INFO] a[0] [1]", "- [ ] open\n- [x] done [INFO] a[0] [1]"),
        ("`[a](b)` \\[a](b)", "`[a](b)` \\[a](b)"),
    ],
)
def test_a_link_leaves_its_text_an_image_what_it_shows_and_a_footnote_its_text(page: str, left: str) -> None:
    assert read(page) == left


@pytest.mark.parametrize(
    "page",
    [
        r"Let $x_{i} < \{1, 2\}$ and $$\frac{a}{b}$$ be.",
        "It costs $5 to {x} and $6.".replace("{x} ", ""),
        "~~~py\nd = {'a': 1}  # <b>\n~~~",
        "````md\n```\n{a}\n```\n````",
        "- ```sh\n  echo ${A} <b>\n  ```",
    ],
)
def test_formulas_and_code_stay_as_they_are(page: str) -> None:
    assert read(page) == page


def test_a_page_without_components_is_plain_markdown() -> None:
    page = "A set {1, 2}, and a {{ template }}.\n\n    code(<b>)"

    markdown, is_mdx = to_markdown(page, is_mdx=False)

    assert not is_mdx
    assert "A set {1, 2}, and a {{ template }}." in markdown


@pytest.mark.parametrize("page", ["import A from 'a'\n\n{b}", "<Foo/> {b}", "<Foo>\n\n{b}\n\n</Foo>"])
def test_a_page_with_imports_or_components_is_mdx(page: str) -> None:
    markdown, is_mdx = to_markdown(page, is_mdx=False)

    assert is_mdx
    assert "b" not in markdown


@pytest.mark.parametrize(
    "page", ["a { b", "a <B c", "a [b", "a <!-- b", "{/* a", "`a", "$a", "<A b={`", "[a](", "$$\na"]
)
def test_what_is_never_closed_is_text(page: str) -> None:
    assert read(page) == page


@given(TEXT, st.booleans())
def test_any_text_can_be_read(text: str, is_mdx: bool) -> None:  # noqa: FBT001
    to_markdown(text, is_mdx=is_mdx)


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece", ["{", "[", "<a ", "<A b='", "> ", "$a ", "`a``", "<div>", ":::a\n", "[^a", "&a", "{'", "[a]("]
)
def test_the_time_grows_with_the_length(piece: str) -> None:
    # Were it to grow with the square of it, this would take hours.
    assert to_markdown(piece * 100_000, is_mdx=True)
