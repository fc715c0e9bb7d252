"""The OpenAPI document."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from app.config import Settings
from app.main import app
from tests.patience import PATIENCE_SECONDS

DOCUMENT = app.openapi()
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
}
ERROR_BODY = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}


@contextmanager
def development_service(folder: Path) -> Iterator[str]:
    """Serve the service in development, offline, in a thread of its own, for blocking clients; gives its address."""
    handlers, level = logging.root.handlers, logging.root.level
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as listener:
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
        patch.setenv("FASTAPI_ENV", "development")
        patch.chdir(folder)
        serving = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        serving.start()
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            # The listener holds requests back until the service has started.
            assert httpx2.get(f"{base_url}/health/ready", timeout=PATIENCE_SECONDS).status_code == 200
            yield base_url
        finally:
            server.should_exit = True
            serving.join()
    logging.root.handlers, logging.root.level = handlers, level


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with development_service(tmp_path_factory.mktemp("service")) as address:
        yield address


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_every_operation_is_described(operation: dict[str, Any]) -> None:
    assert operation["summary"]
    assert operation["description"]


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_every_error_is_described_and_has_the_one_body(operation: dict[str, Any]) -> None:
    errors = {status: response for status, response in operation["responses"].items() if not status.startswith("2")}

    assert "422" not in errors
    for response in errors.values():
        assert response["description"]
        assert response["content"] == ERROR_BODY


def test_the_errors_of_a_turn_are_listed() -> None:
    assert OPERATIONS["POST /chat"]["responses"].keys() >= {"200", "400", "413", "500"}


def test_the_answer_of_a_turn_is_described() -> None:
    schemas = DOCUMENT["components"]["schemas"]

    assert schemas["ChatRequest"]["required"] == ["message"]
    assert schemas["ChatRequest"]["properties"].keys() == {
        *("message", "session_id", "selected_text"),
        *("page_url", "scope", "reader_note", "follow_ups", "snippets"),
    }
    assert all(field["description"] for field in schemas["ChatRequest"]["properties"].values())
    assert schemas["ChatResponse"]["required"] == ["response", "session_id", "timestamp"]
    assert schemas["ChatResponse"]["properties"].keys() == {"response", "session_id", "timestamp", "truncated"}
    assert schemas["ErrorInfo"]["required"] == ["code", "message", "request_id", "retryable"]


def test_fastapis_own_validation_error_is_not_in_the_document() -> None:
    assert not {"HTTPValidationError", "ValidationError"} & DOCUMENT["components"]["schemas"].keys()


def test_the_document_is_served(address: str) -> None:
    assert httpx2.get(f"{address}/openapi.json", timeout=PATIENCE_SECONDS).json() == DOCUMENT


def test_the_document_is_served_for_people_to_read(address: str) -> None:
    page = httpx2.get(f"{address}/docs", timeout=PATIENCE_SECONDS)

    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "/openapi.json" in page.text
