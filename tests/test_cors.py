"""Which websites may call the service from a browser, and what they can see of its answers."""

import httpx2

from tests.conftest import ORIGIN, PlugIn, Serve, Service
from tests.fake_openai import FakeOpenAI, failure
from tests.marks import on_one_database

pytestmark = on_one_database

STRANGER = "https://stranger.example"


async def preflight(
    service: Service, origin: str, *, method: str = "POST", headers: str = "content-type"
) -> httpx2.Response:
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": headers}
    return await service.client.options("/chat", headers={"Origin": origin, **asked})


async def allowed_origin(service: Service, origin: str) -> str | None:
    """Return the origin that a response allows, having seen that the preflight says the same."""
    response = await service.client.get("/health", headers={"Origin": origin})
    before = await preflight(service, origin)
    allowed: str | None = response.headers.get("Access-Control-Allow-Origin")
    assert before.headers.get("Access-Control-Allow-Origin") == allowed
    assert before.status_code == (200 if allowed else 400)
    assert "Origin" in response.headers["Vary"]
    return allowed


async def every_status(
    service: Service, model_server: FakeOpenAI, plug_in: PlugIn, origin: str
) -> dict[str, httpx2.Response]:
    """Return a response of each kind that a page at this origin can get."""
    client, headers = service.client, {"Origin": origin}
    responses = {
        "success": await client.post("/chat", json={"message": "Hello"}, headers=headers),
        "invalid": await client.post("/chat", json={}, headers=headers),
        "unknown address": await client.get("/nowhere", headers=headers),
        "wrong method": await client.get("/chat/stream", headers=headers),
        "too large": await client.post("/chat", content=b"x" * 1_000_000, headers=headers),
    }
    model_server.enqueue(failure(429, **{"retry-after": "9"}))
    responses["model failed"] = await client.post("/chat", json={"message": "Hello"}, headers=headers)
    plug_in(RuntimeError())
    responses["unforeseen"] = await client.post("/chat", json={"message": "Hello"}, headers=headers)
    return responses


STATUSES = {
    "success": 200,
    "invalid": 400,
    "unknown address": 404,
    "wrong method": 405,
    "too large": 413,
    "model failed": 500,
    "unforeseen": 500,
}


async def test_an_allowed_page_can_read_every_answer_and_the_headers_that_concern_it(
    service: Service, model_server: FakeOpenAI, plug_in: PlugIn
) -> None:
    responses = await every_status(service, model_server, plug_in, ORIGIN)

    assert {kind: response.status_code for kind, response in responses.items()} == STATUSES
    for kind, response in responses.items():
        assert response.headers.get("Access-Control-Allow-Origin") == ORIGIN, kind
        exposed = {name.strip().lower() for name in response.headers["Access-Control-Expose-Headers"].split(",")}
        assert exposed == {"retry-after", "x-request-id"}, kind
        assert response.headers["X-Request-ID"], kind
        assert "Origin" in response.headers["Vary"], kind
        assert "Access-Control-Allow-Credentials" not in response.headers, kind
    assert responses["model failed"].headers["Retry-After"] == "9"


async def test_another_page_is_allowed_to_read_nothing(
    service: Service, model_server: FakeOpenAI, plug_in: PlugIn
) -> None:
    responses = await every_status(service, model_server, plug_in, STRANGER)

    assert {kind: response.status_code for kind, response in responses.items()} == STATUSES
    for kind, response in responses.items():
        assert "Access-Control-Allow-Origin" not in response.headers, kind
        assert "Origin" in response.headers["Vary"], kind


async def test_the_preflight_of_an_allowed_page_passes(service: Service, model_server: FakeOpenAI) -> None:
    response = await preflight(service, ORIGIN, headers="content-type, x-request-id")

    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in response.headers["Access-Control-Allow-Methods"]
    for name in (
        *("Idempotency-Key", "X-Reader-Token", "ChatKit-Device-Id", "ChatKit-Frame-Instance-Id"),
        *("MCP-Protocol-Version", "Mcp-Method", "Mcp-Name"),
    ):
        assert (await preflight(service, ORIGIN, headers=name)).status_code == 200, name
    assert "Content-Type" in response.headers["Access-Control-Allow-Headers"]
    assert "Origin" in response.headers["Vary"]
    assert response.headers["X-Request-ID"]


async def test_a_preflight_that_asks_for_too_much_is_refused(service: Service) -> None:
    for refused in (
        await preflight(service, STRANGER),
        await preflight(service, "null"),
        await preflight(service, ORIGIN, method="PATCH"),
        await preflight(service, ORIGIN, headers="authorization"),
    ):
        assert refused.status_code == 400
    assert "Access-Control-Allow-Origin" not in (await preflight(service, STRANGER)).headers


async def test_by_default_only_the_docusaurus_development_server_is_allowed(service: Service) -> None:
    assert await allowed_origin(service, "http://localhost:3000") == "http://localhost:3000"
    for other in ("http://localhost:3001", "https://localhost:3000", "http://localhost:30000", "http://127.0.0.1:3000"):
        assert await allowed_origin(service, other) is None


async def test_origins_are_separated_by_commas_however_they_are_spaced_and_ended(serve: Serve) -> None:
    service = await serve(CORS_ORIGINS=" http://localhost:3000 ,https://book.example.org/,, https://Docs.Example.org ")

    for origin in ("http://localhost:3000", "https://book.example.org", "https://docs.example.org"):
        assert await allowed_origin(service, origin) == origin
    for other in ("https://book.example.org.evil.example", "http://book.example.org", "https://example.org", "null"):
        assert await allowed_origin(service, other) is None


async def test_named_origins_replace_the_default(serve: Serve) -> None:
    service = await serve(CORS_ORIGINS="https://book.example.org")

    assert await allowed_origin(service, ORIGIN) is None


async def test_a_pattern_allows_origins_that_it_matches_from_end_to_end(serve: Serve) -> None:
    service = await serve(CORS_ORIGIN_REGEX=r"https://book-[a-z0-9]+\.vercel\.app|https://preview\.example\.org")

    for origin in (ORIGIN, "https://book-a1b2.vercel.app", "https://preview.example.org"):
        assert await allowed_origin(service, origin) == origin
    for other in (
        "https://book-a1b2.vercel.app.evil.example",
        "https://evil.example/https://book-a1b2.vercel.app",
        "https://preview.example.org.evil.example",
        "https://book-a1b2-vercel-app",
        "http://book-a1b2.vercel.app",
    ):
        assert await allowed_origin(service, other) is None


async def test_an_asterisk_allows_every_page(serve: Serve) -> None:
    service = await serve(CORS_ORIGINS="*")

    response = await service.client.get("/health", headers={"Origin": STRANGER})

    assert response.headers["Access-Control-Allow-Origin"] == "*"
    assert (await preflight(service, STRANGER)).status_code == 200
