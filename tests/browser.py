"""Chromium with pages of a book in it, which nothing but the browser has ever heard of."""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from mimetypes import guess_type
from pathlib import Path
from typing import Any, Self, override

import pytest
from playwright.async_api import Browser as PlaywrightBrowser
from playwright.async_api import BrowserContext, Page, Playwright, Request, async_playwright, expect
from playwright.async_api import TimeoutError as PlaywrightTimeoutError

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"))), None
)
"""The one without windows is preferred: it costs half the processor time, and is the same otherwise."""
TOOLS = Path(__file__).parents[1] / "tools" / "node_modules"
SITE = Path(__file__).parent / "site"
MADE = {"node_modules", "build", ".docusaurus", ".lock"}
"""What making the site leaves in its folder."""
INSTALL = ("install", "--no-save", "--no-audit", "--no-fund")
"""`npm ci` would refuse the lock file, which lacks optional packages of other platforms that do not exist in every version."""
PHONE = {"viewport": {"width": 390, "height": 740}, "has_touch": True, "is_mobile": True}

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

expect.set_options(timeout=30_000)

BOOK = r"""
<nav>Menu of the book</nav>
<main>
  <article>
    <h1>Humanoid robots</h1>
    <p>Atlas walks on two legs. It weighs 89 kg.</p>
    <h2>Six legs</h2>
    <p>A hexapod keeps three legs on the ground.</p>
    <p id="formula">The force is
      <span class="katex"><span class="katex-mathml"><math><semantics><mrow><mi>F</mi></mrow><annotation
        encoding="application/x-tex">F = ma</annotation></semantics></math></span><span class="katex-html"
        aria-hidden="true">F&#8203;=ma</span></span>, said Newton.</p>
  </article>
</main>
"""

type Visit = Callable[..., Awaitable[Page]]


def strict_policy(service: str) -> str:
    """The strictest policy that a book with the widget can have."""
    return (
        f"default-src 'none'; script-src {service}/; connect-src {service}/; base-uri 'none'; form-action 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


class Books:
    """The websites of the books, by their host, which the browser believes to be at the addresses that it is told."""

    def __init__(self) -> None:
        self.folders: dict[str, tuple[Path, str]] = {}
        """A website that was built, in whose pages `http://widget.invalid` becomes the service's address."""
        self.pages: dict[str, tuple[bytes, dict[str, str]]] = {}
        """A book of one page, at each address of the host: its HTML and its headers."""
        books = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                host = self.headers["Host"]
                if host in books.pages:
                    self._send(200, *books.pages[host])
                    return
                name = self.path.partition("?")[0].strip("/")
                folder, service = books.folders[host]
                for file in (folder / name, folder / name / "index.html"):
                    if file.is_file():
                        content = file.read_bytes().replace(b"http://widget.invalid", service.encode())
                        self._send(200, content, {"Content-Type": guess_type(file.name)[0] or "text/plain"})
                        return
                self._send(404, b"", {})

            def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            @override
            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"


@dataclass(frozen=True)
class Browser:
    """A browser that tests drive, and what it finds at the addresses of the books."""

    driven: PlaywrightBrowser
    books: Books


def built_site() -> Path:
    """Return the folder of the Docusaurus site in `tests/site`, which is built unless what it is built from is as before.

    Skips the test if npm is missing, or cannot install Docusaurus.
    """
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    sources = sorted(path for path in SITE.rglob("*") if path.is_file() and not {*path.parts} & MADE)
    digest = hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in sources)).hexdigest()
    built, stamp = SITE / "build", SITE / "build" / ".digest"
    with (SITE / ".lock").open("w") as lock:  # Other processes of the tests want it too.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != digest:
            if not (SITE / "node_modules").exists():
                installed = subprocess.run([npm, *INSTALL], cwd=SITE, check=False, capture_output=True, timeout=400)
                if installed.returncode:
                    pytest.skip("npm cannot install Docusaurus")
            subprocess.run([npm, "run", "build"], cwd=SITE, check=True, capture_output=True, timeout=400)
            stamp.write_text(digest)
    return built


@asynccontextmanager
async def running_browser(program: str | Path | None = CHROMIUM) -> AsyncIterator[Browser]:
    """Run a browser, and Playwright beside it, which takes half a second to start."""
    books = Books()
    threading.Thread(target=books.server.serve_forever, daemon=True).start()
    try:
        with _running_chromium(program, books) as debugger:
            async with async_playwright() as playwright:
                browser = await _connect(playwright, debugger)
                yield Browser(browser, books)
                await browser.close()
    finally:
        books.server.shutdown()
        books.server.server_close()


@contextmanager
def _running_chromium(program: str | Path | None, books: Books) -> Iterator[str]:
    """Run a browser in which localhost, at whatever port, is where the books are; yields its debugger's address."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                str(program),
                "--headless",
                "--no-sandbox",
                "--no-first-run",
                "--disable-gpu",
                "--disable-extensions",
                "--disable-background-networking",
                f"--host-resolver-rules=MAP localhost {books.address}",
                "--remote-debugging-port=0",
                f"--user-data-dir={profile}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = _port(Path(profile, "DevToolsActivePort"), process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _port(file: Path, process: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        if file.exists() and "\n" in (text := file.read_text()):
            return int(text.splitlines()[0])
        time.sleep(0.02)
    raise RuntimeError("Chromium did not start")


@asynccontextmanager
async def readers(browser: Browser) -> AsyncIterator[Visit]:
    """Open pages of a book, each for a reader of its own; fails if a page throws an error or breaks its policy."""
    books = browser.books
    complaints: list[str] = []
    async with AsyncExitStack() as stack:

        async def open_page(  # noqa: PLR0913  # Each is optional and has a name.
            service: str,
            *,
            origin: str,
            path: str = "/",
            lang: str = "en",
            direction: str = "ltr",
            body: str = BOOK,
            attributes: str = "",
            script: str = "",
            files: Path | None = None,
            context: BrowserContext | None = None,
            **options: Any,
        ) -> Page:
            host = origin.removeprefix("http://")
            books.pages.pop(host, None)
            if files:
                books.folders[host] = files, service
            else:
                tag = f'<script type="module" src="{service}/widget.js" {attributes}></script>'
                html = (
                    f'<!doctype html><html lang="{lang}" dir="{direction}"><meta name="viewport" content="width=device-width">'
                    f"<title>Book</title>{tag}<body>{body}</body></html>"
                )
                headers = {
                    "Content-Type": "text/html; charset=utf-8",
                    "Content-Security-Policy": strict_policy(service),
                }
                books.pages[host] = html.encode(), headers
            if context is None:
                # What moves would cost time in every test.
                context = await browser.driven.new_context(**{"reduced_motion": "reduce", **options})
                stack.push_async_callback(context.close)
            page = await context.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda message: complaints.append(message.text) if _is_violation(message.text) else None)
            if script:
                await page.add_init_script(script)
            await page.goto(origin + path)
            return page

        yield open_page
    assert complaints == [], complaints


async def _connect(playwright: Playwright, debugger: str) -> PlaywrightBrowser:
    """Connect to the running browser, which now and then leaves a new connection without an answer."""
    for _ in range(3):
        with contextlib.suppress(PlaywrightTimeoutError):
            return await playwright.chromium.connect_over_cdp(debugger, timeout=10_000)
    return await playwright.chromium.connect_over_cdp(debugger)


def _is_violation(text: str) -> bool:
    return any(
        word in text for word in ("Content Security Policy", "Content-Security-Policy", "TrustedHTML", "TrustedScript")
    )


async def open_chat(page: Page) -> None:
    await page.get_by_role("button", name="Ask the book").click()
    await expect(page.get_by_role("textbox")).to_be_visible()


async def ask(page: Page, message: str) -> None:
    await page.get_by_role("textbox").fill(message)
    await page.get_by_role("button", name="Send").click()


def questions(page: Page) -> Any:
    """What the reader is shown to have asked."""
    return page.locator("book-chat .question > p")


def answers(page: Page) -> Any:
    """What the reader is shown as answers."""
    return page.locator("book-chat .answer")


BRIGHTNESS = """getComputedStyle(document.querySelector("book-chat").shadowRoot.querySelector("dialog")).backgroundColor
  .match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part) / 3, 0)"""
"""How bright the chat is, of 255, as JavaScript."""


async def becomes(page: Page, condition: str) -> None:
    """Wait until the JavaScript expression is true, also on a page that forbids the evaluation of strings."""
    await page.evaluate(f"async () => {{ while (!({condition})) await new Promise(requestAnimationFrame) }}")


def requests_of(page: Page, path: str) -> list[Request]:
    """The requests that the page makes from now on, whose path begins like this."""
    made: list[Request] = []
    page.on("request", lambda request: made.append(request) if f"/{path}" in request.url else None)
    return made


async def accessibility_findings(page: Page, within: str = "html") -> list[str]:
    """What axe finds fault with in this part of the page."""
    await page.evaluate((TOOLS / "axe-core" / "axe.min.js").read_text())
    found: dict[str, Any] = await page.evaluate("within => axe.run(within, {resultTypes: ['violations']})", within)
    return [
        f"{rule['id']}: {json.dumps([node['target'] for node in rule['nodes']])} {rule['nodes'][0]['failureSummary']}"
        for rule in found["violations"]
    ]


class Relay:
    """A proxy in front of the service whose connections can be cut, and which can refuse new ones."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.removeprefix("http://").rstrip("/").partition(":")
        self._port = int(port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.down()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def up(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def down(self) -> None:
        if self._server:
            self._server.close()
        self.cut()

    def cut(self) -> None:
        """Reset all connections."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._start(self._connect(reader, writer))

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        self._writers |= {writer, far_writer}
        self._start(_pump(reader, far_writer))
        await _pump(far_reader, writer)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
