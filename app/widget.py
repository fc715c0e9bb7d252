"""The widget's scripts, which one script tag puts into any page, and in development a page to see it on."""

import gzip
import hashlib
import html
import json
import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from string import Template

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from app.dependencies import StateRequest

router = APIRouter(include_in_schema=False)

SCRIPTS = Path(__file__).parent / "widget"
PAGE = Path(__file__).parent / "page"
SAMPLE = Path(__file__).parents[1] / "sample-book" / "docs" / "01-what-is-a-robot.md"

_SHORT_LIVED = "public, max-age=300, stale-while-revalidate=86400"
_IMMUTABLE = "public, max-age=31536000, immutable"
_IMPORT = re.compile(rb"""(\b(?:from |import\()["'`])\./""")
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
"""The strictest policy that a book may have: what works under it works everywhere."""
_OFFLINE = "Without an <code>OPENAI_API_KEY</code>, an offline stand-in answers: it only quotes, and says so."


@dataclass(frozen=True)
class Script:
    """A JavaScript module."""

    content: bytes

    @cached_property
    def compressed(self) -> bytes:
        """The content with gzip."""
        return gzip.compress(self.content, mtime=0)

    @cached_property
    def digest(self) -> str:
        """The beginning of the content's SHA-256 digest."""
        return hashlib.sha256(self.content).hexdigest()[:16]


@dataclass(frozen=True)
class Bundle:
    """The widget's scripts by their path below `/widget/{version}/`, and the one at `/widget.js`, which imports them."""

    version: str
    scripts: dict[str, Script]
    entry: Script


def load_bundle() -> Bundle:
    """Read the scripts.

    The entry imports the others at addresses with their common version, so that a browser never mixes those of two releases,
    and may keep them for good.
    """
    paths = sorted(SCRIPTS.rglob("*.js"))
    scripts = {path.relative_to(SCRIPTS).as_posix(): Script(path.read_bytes()) for path in paths}
    version = hashlib.sha256("".join(script.digest for script in scripts.values()).encode()).hexdigest()[:16]
    entry = _IMPORT.sub(rb"\1./widget/" + version.encode() + rb"/", scripts["widget.js"].content)
    return Bundle(version, scripts, Script(entry))


_load_bundle_once = cache(load_bundle)


def _bundle(request: StateRequest) -> Bundle:
    # While the widget is being changed, each request gets what is in the files.
    return load_bundle() if request.state["settings"].development else _load_bundle_once()


@router.api_route("/widget.js", methods=["GET", "HEAD"])
async def entry(request: StateRequest) -> Response:
    """Return the script that pages include."""
    return _respond(request, _bundle(request).entry, _SHORT_LIVED)


@router.api_route("/widget/{path:path}", methods=["GET", "HEAD"])
async def script(request: StateRequest, path: str) -> Response:
    """Return another script of the widget.

    A page that was opened before a release asks for scripts of the earlier version, and gets the ones of this release.
    """
    bundle = _bundle(request)
    version, _, rest = path.partition("/")
    if re.fullmatch(r"[0-9a-f]{16}", version):
        path = rest
    if path not in bundle.scripts:
        raise HTTPException(404)
    if path == "features.js":
        return _respond(request, _features(request), "no-cache")
    return _respond(request, bundle.scripts[path], _IMMUTABLE if version == bundle.version else _SHORT_LIVED)


def _features(request: StateRequest) -> Script:
    """Return the script that says what the service offers; its settings decide that, so its address says nothing of it."""
    return Script(f"export const mcp = {json.dumps(request.state['mcp_tools'] is not None)};\n".encode())


def _respond(request: StateRequest, script: Script, cache_control: str) -> Response:
    headers = {
        # Any page may load it: one whose origin is refused can then say so.
        "Access-Control-Allow-Origin": "*",
        "Cache-Control": cache_control,
        "Cross-Origin-Resource-Policy": "cross-origin",
        # Weak, since the same script is sent with and without compression.
        "ETag": f'W/"{script.digest}"',
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
    if script.digest in request.headers.get("If-None-Match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(script.compressed, headers=headers, media_type="text/javascript")
    return Response(script.content, headers=headers, media_type="text/javascript")


@router.get("/")
async def page(request: StateRequest) -> HTMLResponse:
    """Return a page of the sample book with the widget on it; in production there is none."""
    settings = request.state["settings"]
    if not settings.development or not SAMPLE.exists():  # An image of the service has no book in it.
        raise HTTPException(404)
    line = f'<script type="module" src="{request.base_url}widget.js"></script>'
    text = Template((PAGE / "index.html").read_text()).substitute(
        notice=_OFFLINE if settings.openai_api_key is None else "",
        line=html.escape(line),
        markdown=html.escape(_without_front_matter(SAMPLE.read_text())),
    )
    policy = "; ".join(f"{name} {value}" for name, value in _POLICY.items())
    return HTMLResponse(text, headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"})


def _without_front_matter(markdown: str) -> str:
    return re.sub(r"\A---\n.*?\n---\n", "", markdown, flags=re.DOTALL)


_PAGE_FILES = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}


@router.get("/page/{name}")
async def page_file(request: StateRequest, name: str) -> Response:
    """Return what the page at `/` consists of besides."""
    if not request.state["settings"].development or name not in _PAGE_FILES:
        raise HTTPException(404)
    return Response((PAGE / name).read_bytes(), headers={"Cache-Control": "no-store"}, media_type=_PAGE_FILES[name])
