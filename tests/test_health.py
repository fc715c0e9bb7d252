"""Whether the service is alive, and whether it can take turns."""

import uuid

import pytest
from dirty_equals import IsPartialDict
from sqlalchemy import make_url, text

from app.database import REVISION, VERSION_TABLE
from tests.conftest import Serve, Service
from tests.kept import with_own_connections
from tests.marks import on_postgresql
from tests.postgres import free_port

NOT_READY = {
    "code": "not_ready",
    "message": "The database does not answer, or has not been migrated.",
    "retryable": True,
}


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


async def test_a_database_that_a_newer_release_has_migrated_is_ready(service: Service) -> None:
    """The release step migrates while the older release still answers."""
    await execute(service, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    try:
        response = await service.client.get("/health/ready")
    finally:
        await execute(service, f"UPDATE {VERSION_TABLE} SET version_num = '{REVISION}'")

    assert (response.status_code, response.json()) == (200, {"status": "ready"})


async def test_a_database_that_lacks_a_column_is_not_ready(service: Service) -> None:
    await execute(service, "ALTER TABLE messages RENAME COLUMN claim_id TO claim")
    try:
        response = await service.client.get("/health/ready")
    finally:
        await execute(service, "ALTER TABLE messages RENAME COLUMN claim TO claim_id")

    assert response.status_code == 503
    assert response.json() == {"error": {**NOT_READY, "request_id": response.headers["X-Request-ID"]}}


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
async def test_a_monitor_may_ask_without_wanting_the_body(service: Service, path: str) -> None:
    whole, head = await service.client.get(path), await service.client.head(path)

    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]


@on_postgresql
async def test_without_its_database_the_service_is_alive_and_not_ready(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.pool.WAKE_SECONDS", 0.0)
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


@on_postgresql
async def test_a_service_that_may_only_read_is_not_ready(serve: Serve, database_url: str) -> None:
    service = await serve()
    role = f"only_reads_{uuid.uuid4().hex}"
    await execute(service, f"CREATE ROLE {role} LOGIN PASSWORD '{role}' IN ROLE pg_read_all_data")
    url = make_url(database_url).set(username=role, password=role).render_as_string(hide_password=False)
    restricted = await serve(DATABASE_URL=url)

    response = await restricted.client.get("/health/ready")

    assert response.status_code == 503
    assert response.json() == {"error": {**NOT_READY, "request_id": response.headers["X-Request-ID"]}}
    [record] = restricted.log("database.error")
    assert "permission denied for table" in record["traceback"]


@on_postgresql
@pytest.mark.parametrize(
    ("withhold", "settings", "remedy"),
    [
        (
            "REVOKE INSERT, UPDATE ON token_usage FROM",
            {"DAILY_TOKEN_BUDGET": "1000"},
            "GRANT INSERT, UPDATE ON token_usage TO",
        ),
        ("REVOKE ALL ON token_usage FROM", {}, None),
        ("REVOKE SELECT ON document_words FROM", {}, "GRANT SELECT ON document_words TO"),
        ("REVOKE UPDATE ON messages FROM", {}, "GRANT UPDATE ON messages TO"),
        ("REVOKE USAGE ON SCHEMA public FROM", {}, "GRANT USAGE ON SCHEMA public TO"),
    ],
    ids=["budget", "no budget", "book", "messages", "schema"],
)
async def test_what_a_role_may_not_use_is_named_in_the_log(
    serve: Serve, database_url: str, withhold: str, settings: dict[str, str], remedy: str | None
) -> None:
    service, role = await serve(), f"limited_{uuid.uuid4().hex}"
    await execute(
        service,
        f"CREATE ROLE {role} LOGIN PASSWORD 'its-{role}'",
        "REVOKE ALL ON SCHEMA public FROM public",
        f"GRANT USAGE ON SCHEMA public TO {role}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}",
        f"{withhold} {role}",
    )
    url = make_url(database_url).set(username=role, password=f"its-{role}").render_as_string(hide_password=False)
    restricted = await serve(DATABASE_URL=url, **settings)

    response = await restricted.client.get("/health/ready")

    runs = {record["run"] for record in restricted.log("database.forbidden")}
    await execute(service, f"DROP OWNED BY {role}", "GRANT ALL ON SCHEMA public TO public")
    if remedy is None:
        assert (response.status_code, runs) == (200, set())
        return
    assert response.status_code == 503
    assert response.json() == {"error": {**NOT_READY, "request_id": response.headers["X-Request-ID"]}}
    assert runs == {f"{remedy} {role}"}


@on_postgresql
async def test_row_level_security_that_lets_nothing_through_is_named_in_the_log(
    serve: Serve, database_url: str
) -> None:
    service, role = await serve(), f"barred_{uuid.uuid4().hex}"
    await execute(
        service,
        f"CREATE ROLE {role} LOGIN PASSWORD 'its-{role}'",
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}",
        "ALTER TABLE messages ENABLE ROW LEVEL SECURITY",
    )
    url = make_url(database_url).set(username=role, password=f"its-{role}").render_as_string(hide_password=False)
    try:
        restricted = await serve(DATABASE_URL=url)
        response = await restricted.client.get("/health/ready")
    finally:
        await execute(service, "ALTER TABLE messages DISABLE ROW LEVEL SECURITY", f"DROP OWNED BY {role}")

    assert response.status_code == 503
    assert {r["run"] for r in restricted.log("database.forbidden")} == {
        "ALTER TABLE messages DISABLE ROW LEVEL SECURITY"
    }


@on_postgresql
async def test_a_server_that_only_reads_is_not_ready_until_it_writes(serve: Serve, database_url: str) -> None:
    name = make_url(database_url).database
    earlier = await serve()
    await execute(earlier, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    try:
        service = await serve(DATABASE_URL=with_own_connections(database_url))
        reading = await service.client.get("/health/ready")
    finally:
        await execute(
            earlier, "SET TRANSACTION READ WRITE", f"ALTER DATABASE {name} RESET default_transaction_read_only"
        )
    writing = await service.client.get("/health/ready")

    assert reading.status_code == 503
    assert writing.status_code == 200


async def execute(service: Service, *statements: str) -> None:
    """Run the statements in one transaction, past the service."""
    async with service.tables.engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


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
