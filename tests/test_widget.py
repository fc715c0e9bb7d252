"""The widget's scripts as the service serves them, and the page at `/`."""

import gzip
import hashlib
import html
import json
import re
from pathlib import Path

import pytest

from app import widget
from tests.browser import TOOLS
from tests.conftest import ORIGIN, ROOT, Serve, Service
from tests.marks import on_one_database

pytestmark = on_one_database

FIRST = ("widget.js", "dom.js", "languages.js")
"""What every page of a book loads."""

VENDORED = {
    "marked.js": (
        "marked/lib/marked.esm.js",
        "18.2.1",
        "5371fea86fd0656b4fc7bea7c94c663109d82789b69433eeee78d42895aa44de",
    ),
    "temml.js": ("temml/dist/temml.mjs", "0.13.5", "49753197751c1ff7fa2c76c3b8503b6cee03774c7c92ccd71c3c4b7fa5b31fe1"),
}
"""Each vendored script, the file of the npm package that it is, the package's version, and the script's SHA-256 digest."""


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


async def test_what_every_page_loads_is_small(service: Service) -> None:
    bundle = widget.load_bundle()

    assert set(re.findall(r'from "\./([\w.]+)"', bundle.scripts["widget.js"].content.decode())) == {*FIRST} - {
        "widget.js"
    }
    assert sum(len(bundle.scripts[name].compressed) for name in FIRST) <= 10_000


async def test_the_script_imports_the_others_of_its_own_version_which_browsers_keep(service: Service) -> None:
    entry = (await service.client.get("/widget.js")).text
    imported = re.findall(r"""(?:from |import\()["'`]\./(widget/[0-9a-f]{16}/[\w./-]+)""", entry)

    assert "./panel.js" not in entry
    assert {Path(path).name for path in imported} == {"dom.js", "languages.js", "panel.js"}
    for path in imported:
        response = await service.client.get(f"/{path}")
        assert response.status_code == 200
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"


async def test_a_page_that_was_open_during_a_release_gets_the_scripts_that_there_are(service: Service) -> None:
    response = await service.client.get(f"/widget/{'0' * 16}/panel.js")

    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "public, max-age=300, stale-while-revalidate=86400"


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


@pytest.mark.parametrize("name", VENDORED)
def test_a_vendored_script_is_the_packages_own(name: str) -> None:
    file, version, digest = VENDORED[name]
    content = (widget.SCRIPTS / "vendor" / name).read_bytes()

    assert hashlib.sha256(content).hexdigest() == digest
    assert (widget.SCRIPTS / "vendor" / name.replace(".js", ".LICENSE")).stat().st_size > 0
    locked = json.loads((ROOT / "tools" / "package-lock.json").read_text())["packages"]
    package = file.partition("/")[0]
    assert locked[f"node_modules/{package}"]["version"] == version
    if TOOLS.exists():
        assert (TOOLS / file).read_bytes() == content


def test_the_same_script_has_the_same_digest_in_every_process() -> None:
    first, second = widget.load_bundle(), widget.load_bundle()

    assert first.version == second.version
    assert first.entry.compressed == second.entry.compressed
    assert gzip.decompress(first.entry.compressed) == first.entry.content
