"""A folder of pages: which files are read, and which address each has."""

import json
import os
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from app.book.tree import Book, Skipped, TreeError, locale_of, read_book
from tests.conftest import ROOT

URL = "https://book.example.org/docs/"
SAMPLE = ROOT / "sample-book"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "docs"
    path.mkdir()
    return path


def write(folder: Path, **files: str | bytes) -> None:
    for name, content in files.items():
        add(folder, name, content)


def add(folder: Path, name: str, content: str | bytes = "Text.") -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def pages(book: Book) -> list[str]:
    return sorted({unquote(chunk.page.removeprefix(URL)) for chunk in book.chunks})


def read(folder: Path, *exclude: str) -> list[str]:
    """Where the pages are below the root."""
    return pages(read_book(folder, URL, exclude=exclude))


# Each was checked with Docusaurus 3.10.2.
@pytest.mark.parametrize(
    ("file", "address"),
    [
        ("intro.md", "intro"),
        ("intro.mdx", "intro"),
        ("01-intro.md", "intro"),
        ("02_part/03 - deep.md", "part/deep"),
        ("3._foo bar.md", "foo bar"),
        ("1.1-introduction.md", "1.1-introduction"),
        ("2021-11-foo.md", "2021-11-foo"),
        ("7.0-foo.md", "7.0-foo"),
        ("12 foo.md", "12 foo"),
        ("1-.md", "1-"),
        ("index.md", ""),
        ("README.md", ""),
        ("guide/INDEX.mdx", "guide/"),
        ("guide/readme.md", "guide/"),
        ("Guide/guide.md", "Guide/"),
        ("01-guide/01-guide.md", "guide/"),
        ("01-guide/guide.md", "guide/guide"),
        ("guide/01-index.md", "guide/index"),
        (
            "\u0627\u0631\u062f\u0648/\u0631\u0648\u0628\u0648\u0679.md",
            "\u0627\u0631\u062f\u0648/\u0631\u0648\u0628\u0648\u0679",
        ),
    ],
)
def test_a_file_has_the_address_that_docusaurus_gives(file: str, address: str, folder: Path) -> None:
    add(folder, file)

    assert read(folder) == [address]


@pytest.mark.parametrize(
    ("file", "front_matter", "address"),
    [
        ("api/Store.md", "id: store", "api/store"),
        ("01-a/02-b.md", "slug: /x/y", "x/y"),
        ("01-a/02-b.md", "slug: x", "a/x"),
        ("01-a/02-b.md", "slug: ../x", "x"),
        ("01-a/02-b.md", "slug: ./x/", "a/x/"),
        ("01-a/index.md", "slug: x", "a/x"),
        ("01-a/index.md", "id: x", "a/"),
        ("a.md", "slug: /", ""),
        ("01-a/02-b.md", "parse_number_prefixes: false", "01-a/02-b"),
        ("a.md", "slug: 1.10", "1.10"),
        ("a.md", "slug:", "a"),
    ],
)
def test_front_matter_can_set_the_address(file: str, front_matter: str, address: str, folder: Path) -> None:
    add(folder, file, f"---\n{front_matter}\n---\n\nText.")

    assert read(folder) == [address]


def test_number_prefixes_can_be_kept(folder: Path) -> None:
    add(folder, "01-a/02-b.md")

    assert pages(read_book(folder, URL, keep_numbers=True)) == ["01-a/02-b"]


def test_an_address_is_written_as_browsers_send_it(folder: Path) -> None:
    add(folder, "\u0627/a b.md")

    [chunk] = read_book(folder, URL).chunks
    assert chunk.page == chunk.source == f"{URL}%D8%A7/a%20b"


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("https://book.example.org", "https://book.example.org/"),
        (" https://Book.Example.org/docs ", "https://book.example.org/docs/"),
        ("http://localhost:3000/a b/", "http://localhost:3000/a%20b/"),
    ],
)
def test_the_address_of_the_root_is_completed(url: str, root: str, folder: Path) -> None:
    add(folder, "index.md")

    assert read_book(folder, url).chunks[0].page == root


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "book.example.org/docs",
            "/docs",
            "ftp://a/b",
            "https://",
            "https://a/?q=1",
            "https://a/#b",
            "https://[a",
        ),
        *("https://a b/", "https://a:b/", "https://a:70000/", "https://a@b/", "https://a\\b/"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, folder: Path) -> None:
    add(folder, "index.md")

    with pytest.raises(TreeError, match="is not an address such as"):
        read_book(folder, url)


def test_partials_hidden_files_tests_and_other_files_are_not_read(folder: Path) -> None:
    for file in (
        *("a.md", "b.mdx", "_partial.md", "_parts/c.md", ".hidden.md", ".git/d.md", "node_modules/e/README.md"),
        *("__tests__/f.md", "g.txt", "h.MD", "i.markdown", "img/j.png", "_category_.json"),
    ):
        add(folder, file)

    assert read(folder) == ["a", "b"]


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["a.md"], ["drafts/b", "x/c", "x/drafts/d"]),
        (["drafts"], ["a", "x/c", "x/drafts/d"]),
        (["drafts/"], ["a", "x/c", "x/drafts/d"]),
        (["./drafts/*"], ["a", "x/c", "x/drafts/d"]),
        (["**/drafts/**"], ["a", "x/c"]),
        (["*/c.md", "**/a.md"], ["drafts/b", "x/drafts/d"]),
    ],
)
def test_patterns_exclude_files_and_folders(patterns: list[str], left: list[str], folder: Path) -> None:
    for file in ("a.md", "drafts/b.md", "x/c.md", "x/drafts/d.md"):
        add(folder, file)

    assert read(folder, *patterns) == left


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    files: dict[str, str | bytes] = {
        "a.md": "Text.",
        "draft.md": "---\ndraft: true\n---\nText.",
        "unlisted.md": "---\nunlisted: true\n---\nText.",
        "yaml.md": "---\ntitle: a\nfoo: : bar\n---\nText.",
        "latin.md": "Stra\N{LATIN SMALL LETTER SHARP S}e".encode("latin-1"),
        "utf16.md": "Text.".encode("utf-16"),
        "binary.md": b"a\0b",
        "large.md": b"a " * 3_000_000,
        "list.md": "---\n- a\n---\nText.",
        "x/a.md": "---\nslug: /a\n---\nThe same address.",
    }
    write(folder, **files)
    (folder / "gone.md").symlink_to(folder / "nowhere.md")
    os.mkfifo(folder / "pipe.md")

    book = read_book(folder, URL)

    assert pages(book) == ["a", "list"]
    assert book.skipped == [
        Skipped("binary.md", "is not text"),
        Skipped("draft.md", "is a draft"),
        Skipped("gone.md", "cannot be read: No such file or directory"),
        Skipped("large.md", "is larger than 5 MB"),
        Skipped("latin.md", "is not UTF-8"),
        Skipped("pipe.md", "is not a file"),
        Skipped("unlisted.md", "is unlisted"),
        Skipped("utf16.md", "is not UTF-8"),
        Skipped("yaml.md", "has front matter that is not YAML, in line 3"),
        Skipped("x/a.md", "has the same address as a.md"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff---\r\ntitle: Robots\r\n---\r\n\r\nText.\r\n",
        "---\ntitle: 'Robots'\ntags: [a, {b: c}]\ndate: 2024-01-01\n--- \nText.",
        "---\n\n---\n# Robots\n\nText.",
        "---\n# a comment\n---\n# Robots\n\nText.",
        "---\ntitle:\n---\n# Robots\n\nText.",
        "# Robots\rText.",
    ],
)
def test_front_matter_byte_order_marks_and_line_ends_are_understood(text: str, folder: Path) -> None:
    add(folder, "a.md", text.encode())

    [chunk] = read_book(folder, URL).chunks

    assert (chunk.title, chunk.text) == ("Robots", "Text.")


@pytest.mark.parametrize("text", ["---\n\nText.", "---\nJust a line.\n---\n\nText.", "----\nText."])
def test_a_line_is_not_front_matter(text: str, folder: Path) -> None:
    add(folder, "a.md", text)

    assert "Text." in read_book(folder, URL).chunks[0].text


@pytest.mark.parametrize(
    ("name", "front_matter", "is_mdx"),
    [
        ("a.md", "", False),
        ("a.mdx", "", True),
        ("a.md", "format: mdx", True),
        ("a.mdx", "format: md", False),
        ("a.mdx", "format: detect", True),
    ],
)
def test_a_page_has_the_format_of_its_name_or_of_its_front_matter(
    name: str, front_matter: str, *, is_mdx: bool, folder: Path
) -> None:
    add(folder, name, f"---\n{front_matter}\n---\nA set {{1, 2}}.")

    [chunk] = read_book(folder, URL).chunks

    assert chunk.text == ("A set ." if is_mdx else "A set {1, 2}.")


def test_a_page_without_a_title_is_named_by_its_label_its_file_or_its_folder(folder: Path) -> None:
    write(
        folder,
        **{
            "01-a.md": "Text.",
            "b.md": "---\nsidebar_label: Label\n---\nText.",
            "02-c/index.md": "Text.",
            "index.md": "Text.",
        },
    )

    assert [chunk.title for chunk in read_book(folder, URL).chunks] == ["Home", "a", "c", "Label"]


def test_links_are_followed_but_not_in_circles(folder: Path, tmp_path: Path) -> None:
    add(folder, "b.md")
    add(folder, "_shared/a.md")
    (folder / "linked").symlink_to(folder / "_shared")
    (folder / "c.md").symlink_to(folder / "b.md")
    (folder / "loop").symlink_to(folder)

    assert read(folder) == ["b", "c", "linked/a"]


def test_links_and_imports_that_lead_out_of_the_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    add(tmp_path, "outside.md", "Secret.")
    add(tmp_path, "elsewhere/a.md", "Secret.")
    imports = "import A from '../outside.md'\nimport B from '@site/outside.md'\nimport C from './_link.md'\n\n"
    add(folder, "page.mdx", f"{imports}Text.\n\n<A /><B /><C /><A />")
    (folder / "_link.md").symlink_to(tmp_path / "outside.md")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "page2.md").symlink_to(tmp_path / "outside.md")

    book = read_book(folder, URL)

    assert [chunk.text for chunk in book.chunks] == ["Text."]
    assert book.skipped == [
        Skipped("../outside.md, a partial of page.mdx,", "leads out of the folder"),
        Skipped("@site/outside.md, a partial of page.mdx,", "leads out of the folder"),
        Skipped("./_link.md, a partial of page.mdx,", "leads out of the folder"),
        Skipped("page2.md", "leads out of the folder"),
        Skipped("linked", "leads out of the folder"),
    ]


def test_partials_are_bounded_in_number_depth_and_length(folder: Path) -> None:
    def imports(name: str, times: int) -> str:
        return f"import Part from './{name}'\n\n" + "<Part />\n\n" * times

    for depth in range(30):
        add(folder, f"_twice{depth}.md", imports(f"_twice{depth + 1}.md", 2))
        add(folder, f"_once{depth}.md", f"Level{depth}\n\n{imports(f'_once{depth + 1}.md', 1)}")
    add(folder, "_long.md", "Long. " * 100_000)
    write(
        folder,
        **{
            "deep.mdx": "Text.\n\n" + imports("_once0.md", 1),
            "long.mdx": imports("_long.md", 10),
            "many.mdx": "Text.\n\n" + imports("_twice0.md", 1),
        },
    )

    book = read_book(folder, URL)

    text = {name: "".join(c.text for c in book.chunks if c.page == f"{URL}{name}") for name in ("deep", "long")}
    assert "Level9" in text["deep"]
    assert "Level10" not in text["deep"]
    assert 1_000_000 < len(text["long"]) < 1_300_000
    assert {skipped.reason.partition(",")[0] for skipped in book.skipped} == {"is left out"}
    assert len(book.skipped) < 110


def test_the_order_is_always_the_same(folder: Path) -> None:
    for name in ("c", "a", "b/d", "b/a", "d"):
        add(folder, f"{name}.md", "# A\n\nText.\n\n## B\n\nText.")

    assert read_book(folder, URL).chunks == read_book(folder, URL).chunks
    assert [chunk.page.removeprefix(URL) for chunk in read_book(folder, URL).chunks] == ["a", "b/a", "b/d", "c", "d"]


def test_pages_and_folders_stand_where_their_numbers_and_their_site_put_them(folder: Path) -> None:
    for name in ("01-a", "2-b/README", "2-b/1-c", "10-d/e", "f/g", "h"):
        add(folder, f"{name}.md", "# A\n\nText.")
    add(folder, "i.md", "---\nsidebar_position: 1.5\n---\nText.")
    add(folder, "f/_category_.json", '{"position": 3}')

    in_order = [chunk.page.removeprefix(URL) for chunk in read_book(folder, URL).chunks]

    assert in_order == ["a", "i", "b/", "b/c", "f/g", "d/e", "h"]


def test_a_folder_without_a_book_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TreeError, match="is not a folder"):
        read_book(tmp_path / "absent", URL)
    with pytest.raises(TreeError, match="holds no Markdown"):
        read_book(folder, URL)
    add(folder, "a.txt")
    add(folder, "empty.md", "")
    add(folder, "latin.md", b"\xe4")
    with pytest.raises(TreeError, match=r"(?s)holds no Markdown.*latin\.md is not UTF-8"):
        read_book(folder, URL)
    with pytest.raises(TreeError, match="is not a folder"):
        read_book(folder / "a.txt", URL)


def test_the_folder_of_a_translation_names_its_language(folder: Path) -> None:
    translation = folder / "i18n/pt-BR/docusaurus-plugin-content-docs"

    assert locale_of(translation / "current") == "pt-BR"
    assert locale_of(folder / "i18n/ur/docusaurus-plugin-content-docs-api/version-1.0") == "ur"
    assert locale_of(folder) == "en"


def test_the_folder_of_a_whole_site_is_refused(folder: Path) -> None:
    write(folder, **{"docusaurus.config.ts": "", "docs/a.md": "Text."})

    with pytest.raises(TreeError, match=r"whole site.*docs"):
        read_book(folder, URL)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_named(folder: Path) -> None:
    write(folder, **{"a.md": "Text.", "b.md": "Text."})
    (folder / "b.md").chmod(0)

    assert read_book(folder, URL).skipped == [Skipped("b.md", "cannot be read: Permission denied")]


LONG = "A robot senses, decides and acts. " * 10


def test_a_partial_is_read_where_a_page_shows_it(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "docusaurus.config.js").touch()
    write(
        folder,
        **{
            "a/page.mdx": "import Units, {toc} from './_units.mdx';\nimport Note from '@site/src/_note.md'\n\n"
            "# Page\n\nBefore.\n\n<Units unit='m' />\n\n## After\n\n<Note></Note>",
            "a/_units.mdx": "---\ntitle: No\n---\nimport Deep from '../_deep.md'\n\nIn {props.unit}, metres.\n\n<Deep/>",
            "_deep.md": "Deep down.",
        },
    )
    add(tmp_path, "src/_note.md", "Mind the gap.")

    book = read_book(folder, URL)

    assert [chunk.text for chunk in book.chunks] == [
        "Before.\n\nIn , metres.\n\nDeep down.\n\n## After\n\nMind the gap."
    ]
    assert book.skipped == []


def test_the_headings_of_a_partial_are_counted_by_themselves(folder: Path) -> None:
    """This was checked with Docusaurus 3.10.2."""
    part = f"## Same\n\n{LONG}\n\n## Same ##\n\n{LONG}\n\n## Own {{/* #own */}}\n\n{LONG}"
    write(
        folder,
        **{
            "page.mdx": f"import Part from './_part.mdx'\n\n## Same\n\n{LONG}\n\n<Part />\n\n## Same\n\n{LONG}",
            "_part.mdx": part,
        },
    )

    anchors = [chunk.source.partition("#")[2] for chunk in read_book(folder, URL).chunks]

    assert anchors == ["same", "same", "same-1", "own", "same-1"]


def test_a_partial_in_code_is_not_read(folder: Path) -> None:
    code = "```jsx\nimport Part from './_part.mdx'\n\n<Part />\n```"
    write(folder, **{"page.mdx": code, "_part.mdx": "Text."})

    assert [chunk.text for chunk in read_book(folder, URL).chunks] == [code]


def test_a_partial_that_imports_itself_is_read_once(folder: Path) -> None:
    write(
        folder,
        **{
            "page.mdx": "import Part from './_part.mdx'\n\n<Part />",
            "_part.mdx": "import Part from './_part.mdx'\n\nText.\n\n<Part />",
        },
    )

    assert [chunk.text for chunk in read_book(folder, URL).chunks] == ["Text."]


def test_a_partial_that_cannot_be_read_is_named(folder: Path) -> None:
    add(folder, "a/page.mdx", "import Part from '../_part.mdx'\n\nText.\n\n<Part />")
    add(folder, "_part.mdx", b"\xe4")

    book = read_book(folder, URL)

    assert pages(book) == ["a/page"]
    assert book.skipped == [Skipped("../_part.mdx, a partial of a/page.mdx,", "is not UTF-8")]


@pytest.mark.parametrize(
    ("include", "suffix"),
    [
        ("```rust\n{{#rustdoc_include ../listings/a.rs:here}}\n```", ""),
        ("{{#include a.md}}", ""),
        ('--8<-- "snippets/a.md"', ""),
        ("```{include} a.md\n```", ""),
        ("{{< include _a.qmd >}}", ""),
        ("<!--@include: ./a.md-->", ""),
    ],
)
def test_an_include_that_cannot_be_followed_is_named(include: str, suffix: str, folder: Path) -> None:
    write(folder, **{"a.md": f"Text.\n\n{include}", "b.md": "Text {{ variable }} and {% raw %}."})

    first, second = read_book(folder, URL).notes

    assert first.startswith("What 1 include in 1 page would show is missing, such as ")
    assert first.endswith(" in a.md.")
    assert second == "Build the book's site, and read the folder that this makes instead."


def test_kinds_of_files_that_are_not_read_are_counted(folder: Path) -> None:
    write(folder, **{"a.md": "Text.", "b.qmd": "Text.", "c/d.qmd": "Text.", "e.ipynb": "{}", "f.txt": "Text."})

    assert read_book(folder, URL).notes == [
        "2 .qmd files and 1 .ipynb file were not read, since only Markdown is read from its source.",
        "Far less was read than the folder holds: 1 of 4 files.",
        "Build the book's site, and read the folder that this makes instead.",
    ]
    for name in ("g", "h"):
        add(folder, f"{name}.md")
    assert len(read_book(folder, URL).notes) == 1  # There is as much Markdown as of the others.
    for name in ("a", "g", "h"):
        (folder / f"{name}.md").unlink()
    with pytest.raises(TreeError, match=r"(?s)holds no Markdown.*2 \.qmd files"):
        read_book(folder, URL)


@pytest.mark.parametrize(
    ("file", "advice"),
    [
        ("../book.toml", r"the source of mdBook,.*Build it \(mdbook build\), and read the folder book instead"),
        ("mkdocs.yml", r"the source of MkDocs,.*Build it \(mkdocs build\), and read the folder site instead"),
        ("SUMMARY.md", "the source of mdBook or GitBook,.*Read its running site"),
    ],
)
def test_the_source_of_another_generator_is_told_with_what_to_do_instead(file: str, advice: str, folder: Path) -> None:
    write(folder, **{"a.md": "Text.", file: "[A](a.md)"})

    [note] = read_book(folder, URL).notes

    assert re.search(advice, note)


def test_the_pages_of_docusaurus_have_no_such_advice(folder: Path) -> None:
    write(folder, **{"a.md": "Text.", "../docusaurus.config.js": "", "../../mkdocs.yml": ""})

    assert read_book(folder, URL).notes == []


def test_the_sample_book_has_the_addresses_of_its_built_site() -> None:
    book = read_book(SAMPLE / "docs", URL)

    assert book.skipped == []
    assert pages(book) == [
        "",
        "glossary",
        "living-with-robots/asimov",
        "living-with-robots/working-safely",
        "moving/",
        "moving/kinematics",
        "moving/motors",
        "moving/walking",
        "sensing/",
        "sensing/encoders",
        "sensing/inertial-measurement",
        "sensing/lidar",
        "thinking/kalman-filter",
        "thinking/pid-control",
        "thinking/planning",
        "thinking/ros-2",
        "urdu",
        "what-is-a-robot",
    ]


def test_the_questions_about_the_sample_book_name_its_pages() -> None:
    questions = [json.loads(line) for line in (SAMPLE / "questions.jsonl").read_text().splitlines()]
    known = {chunk.page for chunk in read_book(SAMPLE / "docs", URL).chunks}

    assert len(questions) >= 40
    for question in questions:
        assert {*question.get("pages", []), *([question["page_url"]] if "page_url" in question else [])} <= known
        assert "section" not in question or question["section"].partition("#")[0] in question["pages"]


@pytest.mark.parametrize(
    "attributes", ["{ #bend }", "{ #bend .wide }", "{: #bend .wide }", "{ .wide #bend data-x='1' }"]
)
def test_an_attribute_list_is_no_part_of_a_title_and_gives_the_anchor(attributes: str, folder: Path) -> None:
    write(folder, **{"a.md": f"# Arms {{ .big }}\n\n{'Text. ' * 60}\n\n## The elbow {attributes}\n\n{'Text. ' * 60}"})

    assert [(chunk.title, chunk.source) for chunk in read_book(folder, URL).chunks] == [
        ("Arms", f"{URL}a"),
        ("Arms \u203a The elbow", f"{URL}a#bend"),
    ]
