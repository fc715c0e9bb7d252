"""A running site: which pages are asked for, what a site may forbid, and what becomes of pages that change, move or fail."""

import asyncio
import gzip
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from app.book.article import READER
from app.book.client import user_agent
from app.book.crawl import Crawler, Known, check
from app.book.tree import Book, Skipped, TreeError
from tests.conftest import BookCommand


@dataclass
class Site:
    """A web server whose pages a test can change."""

    url: str = ""
    files: dict[str, Any] = field(default_factory=dict)
    """The body of each path, or a response, or a list of responses for one request after the other."""
    asked: Counter[str] = field(default_factory=Counter)
    agents: set[str] = field(default_factory=set)

    async def answer(self, request: web.Request) -> web.Response:
        path = request.path_qs
        self.asked[path] += 1
        self.agents.add(request.headers["User-Agent"])
        found = self.files.get(path)
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        if found is None:
            return web.Response(status=404, text="<p>Not found.", content_type="text/html")
        if isinstance(found, web.Response):
            return web.Response(status=found.status, body=found.body, headers=found.headers)
        etag = f'"{hash(found)}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304)
        return web.Response(text=found, content_type="text/html", headers={"ETag": etag})

    def page(self, path: str, text: str) -> None:
        self.files[path] = f"<html lang=en><title>T</title><main><h1>{path}</h1><p>{text}</p></main>"

    def sitemap(self, *paths: str) -> str:
        locations = "".join(f"<url><loc>{self.url}{path}</loc></url>" for path in paths)
        return f"<urlset>{locations}</urlset>"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    app = web.Application()
    app.router.add_get("/{path:.*}", site.answer)
    async with TestServer(app) as server:
        site.url = str(server.make_url("")).rstrip("/")
        for path in ("/", "/a", "/b"):
            site.page(path, f"Text of {path}.")
        site.files["/sitemap.xml"] = site.sitemap("/", "/a", "/b")
        yield site


async def read(site: Site, path: str = "/", url: str | None = None, **options: Any) -> Book:
    async with Crawler(f"{site.url}{path}", url, pause=0.0, **options) as crawler:
        return await crawler.read()


def pages(book: Book) -> list[str]:
    return sorted({chunk.page.removeprefix(book.url) for chunk in book.chunks})


def known(book: Book) -> Mapping[str, Known]:
    """What the database has after this book."""
    return {
        origin["from"]: Known(origin, [chunk for chunk in book.chunks if chunk.page == page])
        for page, origin in book.origins.items()
    }


def moved(target: str) -> web.Response:
    return web.Response(status=301, headers={"Location": target})


async def test_the_pages_of_the_sitemap_are_read_under_their_addresses(site: Site) -> None:
    book = await read(site)

    assert pages(book) == ["", "a", "b"]
    assert (book.url, book.locale, book.skipped, book.notes) == (f"{site.url}/", "en", [], [])
    assert site.agents == {user_agent()}
    assert user_agent().startswith("book-chat/")


async def test_sitemaps_of_sitemaps_zipped_ones_and_those_that_robots_names_are_read(site: Site) -> None:
    inner = f"<sitemapindex><sitemap><loc>{site.url}/inner.xml.gz</loc></sitemap></sitemapindex>"
    site.files |= {
        "/robots.txt": f"Sitemap: {site.url}/index.xml",
        "/index.xml": inner,
        "/inner.xml.gz": web.Response(body=gzip.compress(site.sitemap("/a").encode()), content_type="application/gzip"),
    }

    assert pages(await read(site)) == ["a"]


async def test_sitemaps_are_followed_to_where_they_are_now_and_asked_for_by_the_sites_own_scheme(site: Site) -> None:
    secure = site.url.replace("http:", "https:")
    site.files |= {
        "/robots.txt": f"Sitemap: {secure}/one.xml\nSitemap: {site.url}/one.xml\nSitemap: {site.url}/two.xml",
        "/one.xml": moved("/maps/one.xml"),
        "/maps/one.xml": moved(f"{secure}/maps/new.xml"),
        "/maps/new.xml": site.sitemap("/a"),
        "/two.xml": site.sitemap("/b"),
    }

    book = await read(site)

    assert (pages(book), book.notes, site.asked["/one.xml"]) == (["a", "b"], [], 1)


async def test_sitemaps_that_are_named_and_cannot_be_read_are_told(site: Site) -> None:
    named = ("/gone.xml", "/moved.xml", "/loop.xml", "/private/map.xml", "/good.xml")
    site.files |= {
        "/robots.txt": "\n".join(
            [
                "Sitemap: https://cdn.example.org/map.xml",
                *(f"Sitemap: {site.url}{path}" for path in named),
                "User-agent: *\nDisallow: /private/",
            ]
        ),
        "/moved.xml": moved("https://cdn.example.org/map.xml"),
        "/loop.xml": moved("/loop.xml"),
        "/good.xml": f"<sitemapindex><sitemap><loc>inner.xml</loc></sitemap><sitemap><loc>{site.url}/a.xml</loc></sitemap></sitemapindex>",
        "/a.xml": site.sitemap("/a"),
    }

    book = await read(site)

    assert pages(book) == ["a"]
    assert book.notes == [
        "The sitemap https://cdn.example.org/map.xml lies on another host and was not read.",
        f"The sitemap {site.url}/gone.xml answered 404.",
        f"The sitemap {site.url}/moved.xml redirects to https://cdn.example.org/map.xml.",
        "And 3 other sitemaps could not be read.",
    ]


async def test_what_a_preview_names_as_its_books_sitemap_is_asked_for_there(site: Site) -> None:
    site.files |= {
        "/robots.txt": "Sitemap: https://book.example.org/docs/map.xml\nSitemap: https://book.example.org/other.xml",
        "/map.xml": site.sitemap("/a"),
        "/other.xml": site.sitemap("/b"),
    }

    book = await read(site, url="https://book.example.org/docs/")

    assert (pages(book), book.notes) == (["a", "b"], [])


async def test_sitemaps_may_have_a_byte_order_mark_and_addresses_relative_to_their_own(site: Site) -> None:
    text = f"\ufeff{site.url}/\r\n{site.url}/b\r\nhttps://other\x1b.org/x\r\n"
    site.files |= {
        "/robots.txt": f"Sitemap: {site.url}/text/map.txt\nSitemap: {site.url}/maps/map.xml",
        "/text/map.txt": web.Response(body=text.encode(), content_type="text/plain"),
        "/maps/map.xml": "<urlset><url><loc>../a</loc></url><url><loc>http://[</loc></url></urlset>",
    }

    book = await read(site)

    assert pages(book) == ["", "a", "b"]
    assert book.notes == [f"The sitemap lists 1 page of https://other%1B.org that are not below {site.url}/."]


async def test_only_pages_below_the_address_are_read_and_the_others_are_told(site: Site) -> None:
    site.page("/docs/c", "Text.")
    site.files["/sitemap.xml"] = site.sitemap("/a", "/docs/c").replace(
        "</urlset>", "<url><loc>https://other.org/x</loc></url></urlset>"
    )

    book = await read(site, "/docs/")

    assert pages(book) == ["c"]
    assert book.notes == [
        f"The sitemap lists 1 page of {site.url} that are not below {site.url}/docs/.",
        f"The sitemap lists 1 page of https://other.org that are not below {site.url}/docs/.",
    ]


async def test_a_preview_can_be_read_under_the_address_of_the_book(site: Site) -> None:
    site.files["/sitemap.xml"] = "<urlset><url><loc>https://book.example.org/docs/a</loc></url></urlset>"

    book = await read(site, url="https://book.example.org/docs/")

    assert [chunk.source for chunk in book.chunks] == ["https://book.example.org/docs/a"]


async def test_without_a_sitemap_links_are_followed(site: Site) -> None:
    del site.files["/sitemap.xml"]
    site.files["/"] = (
        "<main><p>Home. <a href='a#x'>A</a> <a href='https://other.org/'>O</a> <a href='/x.png'>P</a></main><nav><a href=/b>B</a></nav>"
    )

    book = await read(site)
    again = await read(site, known=known(book))

    assert pages(book) == pages(again) == ["", "a", "b"]
    assert book.notes == ["No sitemap lists the site's pages, so links were followed from its first page."]
    assert site.asked["/x.png"] == 0


@pytest.mark.parametrize("listed", ["/docs/", "/docs", "/docs/index.html"])
async def test_a_sitemap_of_the_first_page_alone_is_no_list_of_the_pages(site: Site, listed: str) -> None:
    for path in ("/docs/", "/docs", "/docs/index.html"):
        site.files[path] = "<title>T</title><main><p>Home.</main><nav><a href='/docs/a.html'>A</a></nav>"
    site.page("/docs/a.html", "Text.")
    site.page("/docs/b.html", "Text that nothing links to.")
    site.files["/sitemap.xml"] = site.sitemap("/docs/b.html", "/docs/", "/docs/a.html")
    book = await read(site, "/docs/")
    site.files["/sitemap.xml"] = site.sitemap(listed)

    new = await read(site, "/docs/")
    again = await read(site, "/docs/", known=known(book))

    assert {"a.html"} < {*pages(new)} <= {"", "index.html", "a.html"}
    assert pages(again) == ["", "a.html", "b.html"]
    assert new.notes == again.notes == ["The sitemap lists the first page alone, so links were followed from it."]


async def test_what_pages_link_to_and_the_sitemap_does_not_list_is_counted_and_not_read(site: Site) -> None:
    listed = ("/", "/a", "/b.html", "/old", "/missing", "/canonical?x=1")
    same = ("/a/", "/a/index.html", "/a.html", "b#x", "/index.html", "/new", "/missing", "/named")
    others = (
        "/left/out",
        "/private/x",
        "/x.png",
        "/guide.md",
        "/search.html",
        "https://other.org/",
        "http://[",
        "mailto:me",
    )
    links = "".join(f"<a href='{link}'>L</a>" for link in (*same, *others))
    site.files |= {
        "/robots.txt": "User-agent: *\nDisallow: /private/",
        "/sitemap.xml": site.sitemap(*listed),
        "/": f"<title>T</title><main><p>Home.</main><nav>{links}</nav>",
        "/old": moved("/new"),
    }
    for path in ("/b.html", "/new"):
        site.page(path, f"Text of {path}.")
    site.files["/canonical?x=1"] = "<link rel=canonical href='/named'><title>N</title><main><p>Named.</main>"

    all_listed = await read(site, exclude=["left/**"])
    site.files["/a"] += "<a href='/d'>D</a> <a href='c?x=1#y'>C</a> <a href='c/'>C</a>"
    two = await read(site, exclude=["left/**"])
    site.files["/b.html"] += "<a href=/e>E</a>"
    three = await read(site, exclude=["left/**"])

    assert all_listed.notes == []
    assert two.notes == [
        f"The pages link to 2 addresses that the sitemap does not list, and that were not read: {site.url}/c and {site.url}/d."
    ]
    assert three.notes == [
        f"The pages link to 3 addresses that the sitemap does not list, and that were not read, such as {site.url}/c and {site.url}/d."
    ]
    assert pages(three) == pages(all_listed)


@pytest.mark.parametrize("limit", ["_ADDRESSES", "_LINKS"])
async def test_links_that_the_sitemap_does_not_list_are_counted_up_to_a_limit(
    site: Site, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"app.book.unlisted.{limit}", 2)
    site.files["/sitemap.xml"] = site.sitemap("/", "/a")
    site.files["/"] += "".join(f"<a href=/{number}>N</a>" for number in range(9))

    [note] = (await read(site)).notes

    assert note.startswith("The pages link to at least 2 addresses that the sitemap does not list")


async def test_what_robots_forbids_is_not_asked_for_and_told(site: Site) -> None:
    site.files["/robots.txt"] = (
        "User-agent: *\nDisallow: /a\nDisallow: /*.x$\nAllow: /\n\nUser-agent: other\nDisallow: /"
    )

    book = await read(site)

    assert pages(book) == ["", "b"]
    assert book.skipped == [Skipped(f"{site.url}/a", "is forbidden by robots.txt")]
    assert site.asked["/a"] == 0


async def test_no_redirect_leads_to_what_robots_forbids(site: Site) -> None:
    site.files |= {"/robots.txt": "User-agent: *\nDisallow: /new", "/a": moved("/new/")}
    site.page("/new/", "Moved here.")

    book = await read(site)

    assert pages(book) == ["", "b"]
    assert book.skipped == [Skipped(f"{site.url}/a", f"redirects to {site.url}/new/, which robots.txt forbids")]
    assert site.asked["/new/"] == 0


async def test_a_site_whose_robots_cannot_be_read_is_not_read(site: Site) -> None:
    site.files["/robots.txt"] = web.Response(status=503, headers={"Retry-After": "0"})

    with pytest.raises(TreeError, match=r"robots\.txt answered 503, so nothing may be read"):
        await read(site)


async def test_robots_is_followed_to_where_it_is_now(site: Site) -> None:
    site.files |= {
        "/robots.txt": moved("/static/robots.txt"),
        "/static/robots.txt": moved(site.url.replace("http:", "https:") + "/static/new.txt"),
        "/static/new.txt": web.Response(text="User-agent: *\nDisallow: /a", content_type="text/plain"),
    }

    book = await read(site)

    assert (pages(book), book.skipped) == (["", "b"], [Skipped(f"{site.url}/a", "is forbidden by robots.txt")])


@pytest.mark.parametrize("target", ["/login?next=/robots.txt", "/robots.txt", "/missing", "http://["])
async def test_a_robots_that_leads_to_no_robots_is_none(site: Site, target: str) -> None:
    site.files |= {
        "/robots.txt": moved(target),
        "/login?next=/robots.txt": "<title>Sign in</title>\nUser-agent: *\nDisallow: /",
    }

    assert pages(await read(site)) == ["", "a", "b"]


async def test_a_site_whose_robots_is_on_another_host_has_moved(site: Site) -> None:
    site.files |= {"/robots.txt": moved("/new"), "/new": moved("https://other.org/robots.txt")}

    with pytest.raises(
        TreeError, match=rf"^{site.url}/docs/ has moved to https://other\.org/docs/, which is the address"
    ):
        await read(site, "/docs/")


@pytest.mark.parametrize("redirecting", [["/robots.txt"], ["/", "/a", "/b"]], ids=["robots", "pages"])
async def test_a_site_that_redirects_to_its_other_scheme_has_moved_there(site: Site, redirecting: list[str]) -> None:
    secure = site.url.replace("http:", "https:")
    site.files |= {path: moved(secure + path) for path in redirecting}

    with pytest.raises(TreeError, match=rf"^{site.url}/ has moved to {secure}/, which is the address to give\.$"):
        await read(site)


async def test_one_page_that_redirects_to_the_other_scheme_is_left_out_and_named(site: Site) -> None:
    secure = site.url.replace("http:", "https:")
    site.files |= {"/a": moved(f"{secure}/a"), "/b": moved(f"{secure}/new")}
    site.page("/new", "A proxy in front of the site speaks https, and the site does not know.")

    book = await read(site)

    assert (pages(book), book.skipped) == (["", "new"], [Skipped(f"{site.url}/a", f"redirects to {secure}/a")])


async def test_only_what_has_changed_is_sent_again(site: Site) -> None:
    first = await read(site)
    site.page("/a", "Another text.")
    del site.files["/b"]
    site.page("/c", "New.")
    site.files["/sitemap.xml"] = site.sitemap("/", "/a", "/b", "/c")

    second = await read(site, known=known(first))

    assert {chunk.page.removeprefix(second.url): chunk.text for chunk in second.chunks} == {
        "": "Text of /.",
        "a": "Another text.",
        "c": "New.",
    }
    assert second.skipped == [Skipped(f"{site.url}/b", "answered 404")]
    assert set(second.origins) == {chunk.page for chunk in second.chunks}

    third = await read(site, known=known(second))

    assert (third.chunks, third.origins, third.locale) == (second.chunks, second.origins, "en")


async def test_what_was_read_in_another_way_is_sent_again_though_it_has_not_changed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await read(site)
    before = {
        address: replace(page, chunks=[replace(chunk, text="Read otherwise.") for chunk in page.chunks])
        for address, page in known(first).items()
    }
    unchanged = await read(site, known=before)
    monkeypatch.setattr("app.book.crawl.READER", READER + 1)

    anew = await read(site, known=before)

    assert {chunk.text for chunk in unchanged.chunks} == {"Read otherwise."}
    assert anew.chunks == first.chunks


async def test_redirects_are_followed_within_the_book_alone(site: Site) -> None:
    site.files |= {
        "/a": moved("/new/"),
        "/b": moved("https://other.org/b"),
        "/loop": moved("/loop"),
        "/sitemap.xml": site.sitemap("/a", "/b", "/loop"),
    }
    site.page("/new/", "Moved here.")

    book = await read(site)

    assert [chunk.source.removeprefix(book.url) for chunk in book.chunks] == ["new/"]
    assert book.skipped == [
        Skipped(f"{site.url}/b", "redirects to https://other.org/b"),
        Skipped(f"{site.url}/loop", "redirects too often"),
    ]


async def test_what_fails_in_passing_is_asked_for_again_and_else_stays_as_it_was(site: Site) -> None:
    first = await read(site)
    again = web.Response(status=429, headers={"Retry-After": "0"})
    site.files["/a"] = [again, site.files["/a"].replace("Text", "Better text")]
    site.files["/b"] = web.Response(status=500)

    second = await read(site, known=known(first))

    assert {chunk.page.removeprefix(second.url): chunk.text for chunk in second.chunks} == {
        "": "Text of /.",
        "a": "Better text of /a.",
        "b": "Text of /b.",
    }
    assert second.skipped == [Skipped(f"{site.url}/b", "answered 500, and stays as it was")]


async def test_a_site_that_fails_at_many_pages_leaves_the_book_as_it_was(site: Site) -> None:
    site.files |= {"/a": web.Response(status=500), "/b": web.Response(status=503)}

    with pytest.raises(TreeError, match="2 pages of 3 could not be read, so the book is as it was"):
        await read(site)


@pytest.mark.parametrize("has_sitemap", [True, False])
@pytest.mark.parametrize(
    "login", ["/login", "/private/login", "https://login.example.org/"], ids=["open", "forbidden", "elsewhere"]
)
async def test_a_site_that_wants_a_login_leaves_the_book_as_it_was(site: Site, login: str, has_sitemap: bool) -> None:  # noqa: FBT001
    first = await read(site)
    site.files["/robots.txt"] = "User-agent: *\nDisallow: /private/"
    for path in ("/", "/a", "/b"):
        site.files |= {path: moved(f"/auth?next={path}"), f"/auth?next={path}": moved(f"{login}?next={path}")}
        site.page(f"{login}?next={path}", "Sign in.")
    if not has_sitemap:
        del site.files["/sitemap.xml"]

    place = login if login.startswith("https:") else f"{site.url}{login}"
    with pytest.raises(TreeError) as raised:
        await read(site, known=known(first))

    assert str(raised.value) == (
        f"3 pages of 3 redirect to {place}, so the book is as it was. Does the site need a login? "
        "If the book does not need these pages, leave them out with --exclude."
    )


async def test_a_few_pages_that_redirect_to_the_same_one_are_left_out(site: Site) -> None:
    many = [f"/many/{number}" for number in range(30)]
    for path in many:
        site.page(path, f"Text of {path}.")
    site.files |= {"/sitemap.xml": site.sitemap("/", "/a/", "/b", "/c", *many), "/a/": moved("/a"), "/c": moved("/a")}
    site.files["/b"] = moved("/a?from=b")
    site.files["/a?from=b"] = site.files["/a"]

    assert pages(await read(site)) == sorted(["", "a", *(path.removeprefix("/") for path in many)])


async def test_what_is_no_page_is_left_out_and_named(site: Site) -> None:
    site.files |= {
        "/a": web.Response(body=b"%PDF", content_type="application/pdf"),
        "/b": web.Response(text="<p>x", content_type="text/html", headers={"X-Robots-Tag": "noindex"}),
        "/big": web.Response(body=b"<p>" + b"x" * 5_000_001, content_type="text/html"),
        "/sitemap.xml": site.sitemap("/", "/a", "/b", "/big", "/image.png", "/left/out"),
    }

    book = await read(site, exclude=["left/**"])

    assert pages(book) == [""]
    assert sorted((skipped.file.removeprefix(site.url), skipped.reason) for skipped in book.skipped) == [
        ("/a", "is application/pdf"),
        ("/b", "is not to be indexed (X-Robots-Tag)"),
        ("/big", "is larger than 5 MB"),
        ("/image.png", "is no page, by its name"),
    ]
    assert site.asked["/image.png"] == 0


async def test_what_a_sitemap_lists_under_the_name_of_a_file_is_read_if_it_is_a_page(site: Site) -> None:
    for path in ("/wiki/Node.js", "/package.json", "/guide.md"):
        site.page(path, f"Text of {path}.")
    site.files["/data.xml"] = web.Response(text="<x/>", content_type="application/xml")
    listed = ("/wiki/Node.js", "/package.json", "/guide.md", "/data.xml", "/manual.PDF", "/talk.mp4", "/left/out.zip")
    site.files["/sitemap.xml"] = site.sitemap(*listed)

    book = await read(site, exclude=["left/**"])
    del site.files["/sitemap.xml"]
    again = await read(site, known=known(book))

    assert pages(book) == ["guide.md", "package.json", "wiki/Node.js"]
    assert sorted((skipped.file.removeprefix(site.url), skipped.reason) for skipped in book.skipped) == [
        ("/data.xml", "is application/xml"),
        ("/manual.PDF", "is no page, by its name"),
        ("/talk.mp4", "is no page, by its name"),
    ]
    assert site.asked["/manual.PDF"] == site.asked["/talk.mp4"] == site.asked["/left/out.zip"] == 0
    assert pages(again) == [
        "",
        *pages(book),
    ]  # They were pages, so they are asked for though no sitemap lists them now.


async def test_pages_are_decoded_as_the_server_says(site: Site) -> None:
    body = "<main><p>Привет</main>".encode("koi8-r")
    site.files["/a"] = web.Response(body=body, headers={"Content-Type": "text/html; charset=KOI8-R"})

    assert "Привет" in [chunk.text for chunk in (await read(site)).chunks]


async def test_a_check_finds_dead_addresses_and_anchors(site: Site) -> None:
    long = "A robot senses, decides and acts. " * 10
    site.files["/a"] = f"<main><h1>A</h1><p>{long}</p><h2 id='one'>One</h2><p>{long}</p></main>"
    book = await read(site)
    assert (await check(book)).dead == []

    site.files["/a"] = site.files["/a"].replace("one", "two")
    del site.files["/b"]

    assert (await check(book)).dead == [
        Skipped(f"{site.url}/a#one", "has no such anchor"),
        Skipped(f"{site.url}/b", "answered 404"),
    ]


async def test_frames_are_followed_as_links_are(site: Site) -> None:
    del site.files["/sitemap.xml"]
    site.files["/"] = "<html><head><title>F</title></head><frameset><frame src=a><frame src=/b></frameset></html>"

    assert pages(await read(site)) == ["a", "b"]


async def test_links_are_followed_from_where_the_page_says(site: Site) -> None:
    del site.files["/sitemap.xml"]
    site.files["/"] = "<base href='/sub/'><main><p>Home. <a href=c>C</a></main>"
    site.page("/sub/c", "Text.")

    assert pages(await read(site)) == ["", "sub/c"]


async def test_a_site_that_forbids_everything_is_not_read(site: Site) -> None:
    site.files["/robots.txt"] = "User-agent: *\nDisallow: /"

    with pytest.raises(TreeError, match=r"(?s)no page that can be read.*/ is forbidden by robots\.txt"):
        await read(site)

    assert set(site.asked) == {"/robots.txt"}


async def test_a_sitemap_of_another_host_is_told_and_links_are_followed(site: Site) -> None:
    site.files["/"] = "<main><p>Home. <a href=/a>A</a></main>"
    site.files["/sitemap.xml"] = "<urlset><url><loc>https://staging.example.org/b</loc></url></urlset>"

    book = await read(site)

    assert pages(book) == ["", "a"]
    assert book.notes[0] == (f"The sitemap lists 1 page of https://staging.example.org that are not below {site.url}/.")


async def test_links_to_pages_that_are_gone_are_named_and_those_to_pages_that_were_not_asked_for_are_not(
    site: Site,
) -> None:
    site.files["/a"] = (
        "<main><h1>A</h1><p>A. <a href='/gone'>G</a> <a href='/unlisted'>U</a> <a href='/b#x'>X</a></main>"
    )
    site.files["/sitemap.xml"] = site.sitemap("/", "/a", "/b", "/gone")

    first = await read(site)
    again = await read(site, known=known(first))

    assert first.faults == [
        f"{site.url}/a links to {site.url}/b#x, an anchor that its page does not have",
        f"{site.url}/a links to {site.url}/gone, a page that the book does not have",
    ]
    assert again.faults == []  # What has not changed came without its links.


async def test_the_command_fails_if_its_check_finds_dead_addresses(
    site: Site, tmp_path: Path, book_command: BookCommand
) -> None:
    for name in ("index.html", "a"):
        folder = tmp_path / "site" / ("" if name == "index.html" else name)
        folder.mkdir(exist_ok=True)
        (folder / "index.html").write_text(f"<title>T</title><main><h1>{name}</h1><p>About {name}.</main>")
    arguments = ("ingest", tmp_path / "site", "--url", f"{site.url}/", "--kind", "site", "--check")

    site.page("/a/", "It is there.")
    sound, _ = await asyncio.to_thread(book_command, *arguments)
    del site.files["/a/"]
    dead, output = await asyncio.to_thread(book_command, *arguments)

    assert (sound, dead) == (0, 1)
    assert f"{site.url}/a/" in output


async def test_a_check_follows_redirects(site: Site) -> None:
    long = "A robot senses, decides and acts. " * 10
    site.files["/a"] = f"<main><h1>A</h1><p>{long}</p><h2 id='one'>One</h2><p>{long}</p></main>"
    book = await read(site)
    site.files |= {"/new": site.files["/a"], "/a": moved("/new")}

    assert (await check(book)).dead == []

    site.files |= {"/new": "<main><h1>A</h1></main>", "/b": moved("/b")}

    dead = (await check(book)).dead
    assert dead[0].reason == "has no such anchor"
    assert [skipped.file.removeprefix(site.url) for skipped in dead] == ["/a#one", "/b"]


async def test_a_check_of_a_site_that_is_down_names_every_page(site: Site) -> None:
    book = await read(site, url="http://127.0.0.1:1/")

    checked = await check(book)

    assert checked.asked == len(checked.dead) == 3
    assert all(skipped.reason.startswith("cannot be reached (") for skipped in checked.dead)


async def test_a_check_finds_what_is_no_page_any_more(site: Site) -> None:
    book = await read(site)
    site.files |= {"/a": web.Response(status=503), "/b": web.Response(status=410)}

    assert [skipped.reason for skipped in (await check(book)).dead] == ["answered 503", "answered 410"]
