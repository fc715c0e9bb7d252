"""The widget's scripts as the service serves them, and the page at `/`."""

import html
import re
from pathlib import Path

import pytest

from app import widget
from tests.conftest import ORIGIN, Serve, Service
from tests.marks import on_one_database

pytestmark = on_one_database


async def test_a_page_loads_the_widget_from_anywhere(service: Service) -> None:
    for origin in (None, ORIGIN, "https://stranger.example"):
        response = await service.client.get("/widget.js", headers={"Origin": origin} if origin else {})

        assert response.status_code == 200
        assert response.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "public, max-age=300, stale-while-revalidate=86400"
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert response.headers["Cross-Origin-Resource-Policy"] == "cross-origin"
        assert response.headers["Vary"] == "Accept-Encoding"


async def test_a_browser_that_has_the_script_is_told_so(service: Service) -> None:
    first = await service.client.get("/widget.js")
    again = await service.client.get("/widget.js", headers={"If-None-Match": first.headers["ETag"]})
    other = await service.client.get("/widget.js", headers={"If-None-Match": '"other"'})

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert again.headers["Access-Control-Allow-Origin"] == "*"
    assert other.status_code == 200


async def test_scripts_are_compressed_for_those_who_understand_it(service: Service) -> None:
    plain = await service.client.get("/widget.js", headers={"Accept-Encoding": "identity"})
    compressed = await service.client.get("/widget.js", headers={"Accept-Encoding": "gzip"})

    assert "Content-Encoding" not in plain.headers
    assert compressed.headers["Content-Encoding"] == "gzip"
    assert compressed.content == plain.content
    assert int(compressed.headers["Content-Length"]) < len(plain.content) / 2


async def test_the_script_imports_the_others_of_its_own_version_which_browsers_keep(service: Service) -> None:
    entry = (await service.client.get("/widget.js")).text
    imported = re.findall(r"""(?:from |import\()["'`]\./(widget/[0-9a-f]{16}/[\w./-]+)""", entry)

    assert "./panel.js" not in entry
    assert {Path(path).name for path in imported} == {
        "bubble.js",
        "dom.js",
        "labels.js",
        "panel.js",
        "shortcut.js",
        "theme.js",
    }
    for path in imported:
        response = await service.client.get(f"/{path}")
        assert response.status_code == 200
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"


async def test_a_page_that_was_open_during_a_release_gets_the_scripts_that_there_are(service: Service) -> None:
    response = await service.client.get(f"/widget/{'0' * 16}/panel.js")

    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "public, max-age=300, stale-while-revalidate=86400"


@pytest.mark.parametrize("is_on", [False, pytest.param(True, marks=pytest.mark.slow)])
async def test_a_script_says_whether_assistants_are_served_and_is_asked_for_each_time(
    serve: Serve, *, is_on: bool
) -> None:
    service = await serve(**({"MCP_ENABLED": "true"} if is_on else {}))
    response = await service.client.get(f"/widget/{widget.load_bundle().version}/features.js")

    assert response.text == f"export const mcp = {str(is_on).lower()};\n"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["Access-Control-Allow-Origin"] == "*"
    headers = {"If-None-Match": response.headers["ETag"]}
    assert (await service.client.get("/widget/features.js", headers=headers)).status_code == 304


@pytest.mark.parametrize(
    "path",
    [
        "/widget/none.js",
        "/widget/vendor/marked.LICENSE",
        "/widget/..%2fmain.py",
        "/widget/",
        "/page/index.html",
        "/page/page.css",
    ],
)
async def test_nothing_else_is_served(service: Service, path: str) -> None:
    response = await service.client.get(path)

    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


async def test_the_page_at_the_root_is_for_development(serve: Serve, service: Service) -> None:
    assert (await service.client.get("/")).status_code == 404

    development = await serve(FASTAPI_ENV="development")
    response = await development.client.get("/")

    assert response.status_code == 200
    assert "require-trusted-types-for 'script'" in response.headers["Content-Security-Policy"]
    address = str(development.client.base_url).rstrip("/")
    assert html.escape(f'<script type="module" src="{address}/widget.js"></script>') in response.text
    assert "stand-in" not in response.text


async def test_who_changes_the_widget_sees_it_with_the_next_request(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    production = await serve()
    released = (await production.client.get("/widget.js")).text
    development = await serve(FASTAPI_ENV="development")
    monkeypatch.setattr(widget, "SCRIPTS", tmp_path)

    for text in ("first();", "second();"):
        (tmp_path / "widget.js").write_text(text)

        assert (await development.client.get("/widget.js")).text == text
        assert (await production.client.get("/widget.js")).text == released
