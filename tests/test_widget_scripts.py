"""The widget's scripts as files: small where every page loads them, and the packages' own where they are vendored."""

import gzip
import hashlib
import json
import re

import pytest

from app import widget
from tests.browser import TOOLS, Visit
from tests.conftest import ROOT, Service
from tests.marks import on_one_database

FIRST = ("widget.js", "dom.js", "labels.js", "theme.js")
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


def test_what_every_page_loads_is_small() -> None:
    bundle = widget.load_bundle()

    assert set(
        re.findall(r'^import .* from "\./([\w.]+)";$', bundle.scripts["widget.js"].content.decode(), re.MULTILINE)
    ) == {*FIRST} - {"widget.js"}
    assert sum(len(bundle.scripts[name].compressed) for name in FIRST) <= 10_000


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


CALLS: dict[str, list[tuple[str, object]]] = {
    "answer.js": [
        ("safeUrl('https://a.example/b')?.href", "https://a.example/b"),
        ("safeUrl('mailto:a@b.example')?.href", "mailto:a@b.example"),
        ("safeUrl('javascript:alert(1)')", None),
        ("safeUrl(' JaVa\\tScRiPt:alert(1)')", None),
        ("safeUrl('data:text/html,x')", None),
        ("safeUrl('vbscript:x')", None),
        ("safeUrl('https://[broken')", None),
    ],
    "passage.js": [
        (
            "markedAddress(new URL('https://a.example/b'), 'A well-known robot walks, on six legs, over soft ground')",
            "https://a.example/b#:~:text=A%20well%2Dknown%20robot%20walks%2C%20on%20six%20legs%2C%20over%20soft%20ground",
        ),
        (
            "markedAddress(new URL('https://a.example/b#gait'), 'Robots walk on legs')",
            "https://a.example/b#gait:~:text=Robots%20walk%20on%20legs",
        ),
        ("markedAddress(new URL('https://a.example/b'))", "https://a.example/b"),
        ("markedAddress(new URL('mailto:a@b.example'), 'Robots walk on legs')", "mailto:a@b.example"),
    ],
    "store.js": [
        ("new Store('a').token === new Store('a').token", True),
        ("new Store('a').token === new Store('b').token", False),
        ("((store) => [store.token, store.forgetReader()][0] === store.token)(new Store('a'))", False),
    ],
}
"""Expressions of the functions of a script, and their values."""


@on_one_database
async def test_a_scripts_functions_return_what_they_should(
    service: Service, visit: Visit, subtests: pytest.Subtests
) -> None:
    page = await visit(service)
    scripts = f"{str(service.client.base_url).rstrip('/')}/widget/{widget.load_bundle().version}"

    for script, calls in CALLS.items():
        with subtests.test(script):
            values = await page.evaluate(
                f"""async () => {{
                    const {{ safeUrl, markedAddress, Store }} = await import("{scripts}/{script}");
                    return [{", ".join(expression for expression, _ in calls)}];
                }}"""
            )
            assert dict(zip(dict(calls), values, strict=True)) == dict(calls)
