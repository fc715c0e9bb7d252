"""The check at the end of a run: anchors and links that lead nowhere are named, and nothing else is."""

from pathlib import Path

import pytest

from app.book.shelf import comparable
from app.book.site import read_site
from app.book.tree import read_book
from tests.conftest import BookCommand
from tests.test_site import LONG, URL, build, page


def faults(folder: Path) -> list[str]:
    return read_site(folder, URL).faults


def test_what_leads_nowhere_is_named_once_with_how_many_pages_link_to_it(tmp_path: Path) -> None:
    dead = "<a href='gone.html'>G</a><a href='a.html#gone'>A</a>"
    build(
        tmp_path,
        **{
            "index.html": page(f"<main><h1>Home</h1><p>Home.{dead}</main>"),
            "a.html": page(f"<main><h1>A</h1><p>A.<a href='{URL}gone.html'>G</a><a href='#no'>N</a></main>"),
            "b.html": page("<main><h1>B</h1><p>B.<a href='gone.html'>G</a></main>"),
        },
    )

    assert faults(tmp_path) == [
        f"index.html links to {URL}a.html#gone, an anchor that its page does not have",
        f"index.html and 2 other pages link to {URL}gone.html, a page that the book does not have",
        f"a.html links to {URL}a.html#no, an anchor that its page does not have",
    ]


def test_a_link_may_be_right_from_where_the_page_is_or_from_the_address_that_it_names(tmp_path: Path) -> None:
    head = f'<link rel="canonical" href="{URL}latest/guide/b">'
    links = "<a href='a.html'>A</a><a href='../../a.html'>A</a><a href='gone.html'>G</a>"
    build(
        tmp_path,
        **{
            "index.html": page("<main><h1>Home</h1><p>Home.</main>"),
            "a.html": page("<main><h1>A</h1><p>A.</main>"),
            "b.html": page(f"<main><h1>B</h1><p>B.{links}</main>", head=head),
        },
    )

    [fault] = faults(tmp_path)

    assert fault.startswith("b.html links to")
    assert "gone.html" in fault


@pytest.mark.parametrize(
    "href",
    [
        *(
            "a.html",
            "a",
            "a/",
            "./a.html#elbow",
            "a#elbow",
            "a.html#top",
            "a.html#",
            "a.html#:~:text=arm",
            "#/route",
            "",
        ),
        *("a.html#elbow:~:text=arm", "a.html?x=1#elbow", "hidden.html", "arm.png", "files/", "a.html#%D8%B3%D9%84"),
        *("//book.example.org/docs/a.html", "http://book.example.org/docs/a.html", "https://other.org/gone.html"),
        *("/elsewhere/gone.html", "../gone.html", "mailto:a@b.org", "javascript:void(0)", "http://[broken", "tel:1"),
    ],
)
def test_what_leads_somewhere_or_out_of_the_book_is_not_named(href: str, tmp_path: Path) -> None:
    build(
        tmp_path,
        **{
            "index.html": page(f"<main><h1>Home</h1><p>Home. <a href='{href}'>L</a></main>"),
            "a.html": page(f"<main><h1>A</h1><p>A.</p><h2 id='elbow'>E</h2><p>{LONG}</p><i id='سل'>i</i></main>"),
            "hidden.html": page("<main><p>Hidden.</main>", head='<meta name="robots" content="noindex">'),
            "arm.png": "",
            "files/x": "",
        },
    )

    assert faults(tmp_path) == []


@pytest.mark.parametrize("href", ["#%E5%AE%89", "#%25E5%25AE%2589", "a.html#50%", "a.html#%E5%AE%89"])
def test_an_anchor_with_percent_signs_is_found_as_it_is_written_or_decoded(href: str, tmp_path: Path) -> None:
    body = f"<main><h1>A</h1><p>A. <a href='{href}'>L</a></p><h2 id='%E5%AE%89'>E</h2><p>{LONG}</p><i id='50%'>i</i></main>"
    build(tmp_path, **{"index.html": page(body), "a.html": page(body + "B")})

    assert faults(tmp_path) == []


def test_what_a_page_says_cannot_control_the_terminal(tmp_path: Path) -> None:
    links = "<a href='b\x1b[2J.html'>B</a><a href='a.html#c&#10;&#x9b;2J&#x202e;'>C</a>"
    heading = "<h2 id='d\x1b]0;x\x07'>D</h2><p>d"
    build(tmp_path, **{"a.html": page(f"<main><h1>A</h1><p>A.{links}{heading}{heading}</main>")})

    found = faults(tmp_path)

    assert len(found) == 3
    assert f"a.html links to {URL}b%1B[2J.html, a page that the book does not have" in found
    assert "a.html has the anchor #d%1B]0;x%07 more than once, and links lead to the first" in found
    assert all(line.isprintable() for line in found)


@pytest.mark.parametrize(
    "path", ["{}", "/{}", "%2e%2e%2fbeside.txt", "files/%2e%2e%2f%2e%2e%2fbeside.txt", "out.txt", "loop"]
)
def test_nothing_outside_of_the_folder_is_looked_at(path: str, tmp_path: Path) -> None:
    (tmp_path / "beside.txt").touch()
    href = path.format(f"{tmp_path}/beside.txt")
    site = tmp_path / "site"
    build(site, **{"index.html": page(f"<main><h1>A</h1><p>A.<a href='{URL}{href}'>B</a></main>"), "files/x": ""})
    (site / "out.txt").symlink_to(tmp_path / "beside.txt")
    (site / "loop").symlink_to(site / "loop")

    assert faults(site) == [f"index.html links to {URL}{href}, a page that the book does not have"]


def test_each_link_is_compared_once_and_the_root_once_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def counting(address: str) -> str:
        compared.append(address)
        return comparable(address)

    monkeypatch.setattr("app.book.links.comparable", counting)
    links = "".join(f"<a href='gone-{number}.html'>G</a>" for number in range(9))
    build(tmp_path, **{"a.html": page(f"<main><h1>A</h1><p>A.{links}</main>")})

    assert len(faults(tmp_path)) == 9
    assert (compared.count(URL), len(compared)) == (1, 11)


def test_links_of_the_frame_are_not_followed(tmp_path: Path) -> None:
    build(tmp_path, **{"index.html": page("<nav><a href='gone.html'>G</a></nav><main><h1>A</h1><p>A.</main>")})

    assert faults(tmp_path) == []


def test_links_are_relative_to_what_the_page_says(tmp_path: Path) -> None:
    body = "<main><h1>A</h1><p>A.<a href='b.html'>B</a><a href='c.html'>C</a></main>"
    build(
        tmp_path,
        **{
            "index.html": page(body, head='<base href="/docs/sub/">'),
            "sub/b.html": page("<main><h1>B</h1><p>B.</main>"),
        },
    )

    assert faults(tmp_path) == [f"index.html links to {URL}sub/c.html, a page that the book does not have"]


def test_headings_that_no_address_leads_to_are_named(tmp_path: Path) -> None:
    body = "<main><h1>A</h1><p>a<h2 id='same'>One</h2><p>b<h2 id='same'>Two</h2><p>c<i id='x'></i><i id='x'></i></main>"
    build(tmp_path, **{"index.html": page(body)})

    assert faults(tmp_path) == ["index.html has the anchor #same more than once, and links lead to the first"]


def test_anchors_that_two_headings_of_the_source_have_are_named(tmp_path: Path) -> None:
    build(tmp_path, **{"a.md": "## One {#b}\n\nText.\n\n## B\n\nText.\n\n## C\n\n## C\n\n```\n## B\n```\n"})

    assert read_book(tmp_path, URL).faults == ["a.md has the anchor #b more than once, and links lead to the first"]


@pytest.mark.slow
def test_the_first_ten_are_listed_with_a_count_and_the_run_succeeds(tmp_path: Path, book_command: BookCommand) -> None:
    links = "".join(f"<a href='gone-{number:02}.html'>G</a>" for number in range(12))
    build(tmp_path / "site", **{"index.html": page(f"<main><h1>Home</h1><p>Home.{links}</main>")})

    status, output = book_command("ingest", tmp_path / "site", "--url", URL)

    assert status == 0
    lines = output.splitlines()
    start = lines.index("  12 anchors or links lead nowhere:")
    assert lines[start + 1] == f"    index.html links to {URL}gone-00.html, a page that the book does not have"
    assert lines[start + 10].startswith(f"    index.html links to {URL}gone-09.html")
    assert lines[start + 11 :] == ["    and 2 more"]
