"""Whether the service is alive, and whether it can take turns."""

import pytest
from dirty_equals import IsPartialDict
from sqlalchemy import text

from tests.conftest import Serve, Service
from tests.marks import on_postgresql
from tests.postgres import free_port

NOT_READY = {"code": "not_ready", "message": "The database does not answer, or has not been migrated."}


async def test_a_running_service_is_healthy_and_asks_no_database(service: Service) -> None:
    response = await service.client.get("/health")

    assert response.status_code == 200
    assert response.json() == {"status": "healthy"}
    [record] = service.log("request")
    assert record == IsPartialDict(path="/health", status=200, database_statements=0, database_ms=0.0)


async def test_a_service_whose_database_answers_is_ready(service: Service) -> None:
    response = await service.client.get("/health/ready")

    assert response.status_code == 200
    assert response.json() == {"status": "ready"}
    [record] = service.log("request")
    assert record == IsPartialDict(path="/health/ready", status=200, database_statements=1)


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
async def test_a_monitor_may_ask_without_wanting_the_body(service: Service, path: str) -> None:
    whole, head = await service.client.get(path), await service.client.head(path)

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]


@on_postgresql
async def test_without_its_database_the_service_is_alive_and_not_ready(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.database.WAKE_SECONDS", 0.0)
    service = await serve(DATABASE_URL=f"postgresql://postgres@127.0.0.1:{free_port()}/postgres")

    alive = await service.client.get("/health")
    ready = await service.client.get("/health/ready")

    assert (await service.client.head("/health/ready")).status_code == 503
    assert alive.status_code == 200
    assert alive.json() == {"status": "healthy"}
    assert ready.status_code == 503
    assert ready.json() == {"error": {**NOT_READY, "request_id": ready.headers["X-Request-ID"]}}
    [record] = [r for r in service.log("database.error") if r.get("request_id") == ready.headers["X-Request-ID"]]
    assert "ConnectionRefusedError" in record["traceback"]


async def test_readiness_goes_and_comes_with_the_tables(service: Service) -> None:
    async def rename(old: str, new: str) -> None:
        async with service.tables.engine.begin() as connection:
            await connection.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))

    await rename("book_chat_alembic_version", "version_away")
    try:
        away = await service.client.get("/health/ready")
    finally:
        await rename("version_away", "book_chat_alembic_version")
    back = await service.client.get("/health/ready")

    assert away.status_code == 503
    assert away.json() == {"error": {**NOT_READY, "request_id": away.headers["X-Request-ID"]}}
    assert back.status_code == 200
    assert back.json() == {"status": "ready"}
