"""The widget's files, which one script tag puts into any page, and in development a page to see it on."""

import gzip
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.dependencies import StateRequest

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent / "widget"
_SHORT_LIVED = "public, max-age=300, stale-while-revalidate=86400"
_IMMUTABLE = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Script:
    """A JavaScript module, and the digest that is its ETag."""

    content: bytes

    @cached_property
    def compressed(self) -> bytes:
        """The content with gzip."""
        return gzip.compress(self.content, mtime=0)

    @cached_property
    def digest(self) -> str:
        """The content's SHA-256 digest, in short."""
        return hashlib.sha256(self.content).hexdigest()[:16]


@dataclass(frozen=True)
class Bundle:
    """The widget's scripts by their path below `/widget/{version}/`, and the one at `/widget.js`."""

    version: str
    scripts: dict[str, Script]
    entry: Script


def load() -> Bundle:
    """Read the scripts.

    The entry imports the others at addresses with their common version, so that a browser never mixes those of two releases
    and may keep them for good.
    """
    scripts = {path.relative_to(_FOLDER).as_posix(): Script(path.read_bytes()) for path in _paths()}
    version = hashlib.sha256("".join(script.digest for script in scripts.values()).encode()).hexdigest()[:16]
    entry = re.sub(rb"""(\b(?:from |import\()["'`])\./""", rb"\1./widget/" + version.encode() + b"/", scripts["widget.js"].content)
    return Bundle(version, scripts, Script(entry))


def _paths() -> Iterator[Path]:
    yield from sorted(_FOLDER.rglob("*.js"))


_load_once = cache(load)


def _bundle(request: StateRequest) -> Bundle:
    # While the widget is being changed, each request gets what is in the files.
    return load() if request.state["settings"].development else _load_once()


@router.api_route("/widget.js", methods=["GET", "HEAD"])
async def entry(request: StateRequest) -> Response:
    """Return the script that pages include."""
    return _respond(request, _bundle(request).entry, _SHORT_LIVED)


@router.api_route("/widget/{version}/{path:path}", methods=["GET", "HEAD"])
async def script(request: StateRequest, version: str, path: str) -> Response:
    """Return another script of the widget.

    A page that was opened before a release asks for the version before it, and gets the one that there is.
    """
    bundle = _bundle(request)
    if path not in bundle.scripts:
        raise HTTPException(404)
    return _respond(request, bundle.scripts[path], _IMMUTABLE if version == bundle.version else _SHORT_LIVED)


def _respond(request: Request[Any], script: Script, cache_control: str) -> Response:
    is_compressed = "gzip" in request.headers.get("Accept-Encoding", "")
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
    if is_compressed:
        headers["Content-Encoding"] = "gzip"
    return Response(script.compressed if is_compressed else script.content, headers=headers, media_type="text/javascript")
