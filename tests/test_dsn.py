"""Connection strings as people paste them."""

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import certifi
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from app import dsn
from app.database import Database
from app.dsn import Dsn
from tests.conftest import PASSWORD
from tests.postgres import PostgresServer

SERVER = f"postgresql://reader:{PASSWORD}@db.example.org/book"
NEON = (
    "postgresql://reader:npg_pass@ep-cool-term-1-pooler.eu-central-1.aws.neon.tech/neondb"
    "?sslmode=require&channel_binding=require"
)
VERIFIED = "verified, with the host's name"
CERTIFIED = "verified, under any name"


def parse(**parameters: str) -> Dsn:
    """The server's connection string with these parameters."""
    return dsn.parse(f"{SERVER}?{urlencode(parameters, quote_via=quote)}")


def arguments(**parameters: str) -> dict[str, Any]:
    """What the parameters come to, without the time-out that is always there."""
    return {name: value for name, value in parse(**parameters).connect_args.items() if name != "timeout"}


def tls(parsed: Dsn) -> str | None:
    """How the connection is protected: asyncpg's word for it, or what the context verifies."""
    protection: ssl.SSLContext | str | None = parsed.connect_args.get("ssl")
    if not isinstance(protection, ssl.SSLContext):
        return protection
    assert protection.verify_mode is ssl.CERT_REQUIRED
    return VERIFIED if protection.check_hostname else CERTIFIED


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_every_spelling_of_postgresql_means_asyncpg(scheme: str) -> None:
    parsed = dsn.parse(f" {scheme}://reader:{PASSWORD}@db.example.org:5433/book\n")

    assert parsed.url.render_as_string(hide_password=False) == (
        f"postgresql+asyncpg://reader:{PASSWORD}@db.example.org:5433/book"
    )
    assert parsed.connect_args == {"timeout": dsn.CONNECT_TIMEOUT_SECONDS}
    assert (parsed.sqlite, parsed.pooled) == (False, False)


@pytest.mark.parametrize(
    ("string", "database"),
    [
        ("sqlite://", None),
        ("sqlite+aiosqlite://", None),
        ("sqlite:///:memory:", ":memory:"),
        ("sqlite+aiosqlite:///:memory:", ":memory:"),
        ("sqlite:///chat.db", "chat.db"),
        ("sqlite+aiosqlite:////var/lib/chat.db", "/var/lib/chat.db"),
    ],
)
def test_every_spelling_of_sqlite_means_aiosqlite(string: str, database: str | None) -> None:
    parsed = dsn.parse(string)

    assert (parsed.url.drivername, parsed.url.database) == ("sqlite+aiosqlite", database)
    assert (parsed.sqlite, parsed.pooled, parsed.connect_args) == (True, False, {})


def test_a_percent_encoded_password_survives() -> None:
    assert dsn.parse("postgresql://reader:p%40ss%2F%25@db.example.org/book").url.password == "p@ss/%"


@given(password=st.text(min_size=1))
def test_any_password_survives_and_is_not_printed(password: str) -> None:
    parsed = dsn.parse(f"postgresql://reader:{quote(password, safe='')}@db.example.org/book")

    assert parsed.url.password == password
    assert "reader:***@db.example.org" in repr(parsed)


def test_neons_string_works_as_pasted() -> None:
    parsed = dsn.parse(NEON)

    assert parsed.url.render_as_string(hide_password=False) == (
        "postgresql+asyncpg://reader:npg_pass@ep-cool-term-1-pooler.eu-central-1.aws.neon.tech/neondb"
    )
    assert parsed.pooled
    assert tls(parsed) == VERIFIED


def test_migrations_pass_neons_pooler_by() -> None:
    direct = dsn.parse(NEON).direct

    assert direct.url.host == "ep-cool-term-1.eu-central-1.aws.neon.tech"
    assert direct.url.password == "npg_pass"
    assert not direct.pooled
    assert tls(direct) == VERIFIED


@pytest.mark.parametrize("string", [SERVER, f"{SERVER}?pgbouncer=true", "sqlite:///chat.db"])
def test_what_is_not_neons_pooler_is_left_as_it_is(string: str) -> None:
    parsed = dsn.parse(string)

    assert parsed.direct == parsed


@pytest.mark.parametrize(
    ("parameters", "protection"),
    [
        ({}, None),
        ({"sslmode": "disable"}, "disable"),
        ({"sslmode": "allow"}, "allow"),
        ({"sslmode": "prefer"}, "prefer"),
        ({"sslmode": "require"}, "require"),
        ({"sslmode": "verify-ca"}, CERTIFIED),
        ({"sslmode": "verify-full"}, VERIFIED),
        ({"sslmode": "require", "channel_binding": "prefer"}, "require"),
        ({"sslmode": "require", "channel_binding": "disable"}, "require"),
        ({"sslmode": "require", "channel_binding": "require"}, VERIFIED),
        ({"channel_binding": "require"}, VERIFIED),
        ({"sslmode": "require", "sslrootcert": certifi.where()}, CERTIFIED),
        ({"sslmode": "verify-full", "sslrootcert": certifi.where()}, VERIFIED),
        ({"sslmode": "verify-full", "sslrootcert": "system"}, VERIFIED),
        ({"sslrootcert": "system"}, VERIFIED),
        ({"ssl": "require"}, "require"),
        ({"ssl": "true"}, "require"),
        ({"ssl": "disable"}, "disable"),
        ({"ssl": "false"}, "disable"),
        ({"sslmode": "no-verify"}, "require"),
        ({"ssl": "disable", "sslmode": "require"}, "require"),
        ({"ssl": "verify-full"}, VERIFIED),
        ({"ssl": "true", "sslmode": "verify-ca"}, CERTIFIED),
        ({"sslmode": "require", "sslaccept": "strict"}, VERIFIED),
        ({"sslmode": "require", "sslaccept": "accept_invalid_certs"}, "require"),
    ],
    ids=str,
)
def test_an_sslmode_means_what_it_means_to_libpq(parameters: dict[str, str], protection: str | None) -> None:
    assert tls(parse(**parameters)) == protection


@pytest.mark.parametrize("verifying", ["verify-ca", "verify-full"])
def test_a_private_authority_need_not_be_stricter_than_libpq_asks(verifying: str) -> None:
    context = parse(sslmode=verifying, sslrootcert=certifi.where()).connect_args["ssl"]

    assert not context.verify_flags & ssl.VERIFY_X509_STRICT


@pytest.mark.parametrize(
    "string",
    [
        f"psql '{SERVER}'",
        f'psql "{SERVER}"',
        f"psql {SERVER}",
        f'"{SERVER}"',
        f"DATABASE_URL={SERVER}",
        f'export DATABASE_URL="{SERVER}"',
        f"STORAGE2_DATABASE_URL={SERVER}",
        f"DATABASE_URL: '{SERVER}'",
        f"$env:DATABASE_URL = “{SERVER}”",
        f"psql -d \u2018{SERVER}\u2019",
        f"psql --dbname={SERVER}",
        f"<{SERVER}>",
        f"{SERVER} # from the dashboard",
        f"# From the dashboard\nDATABASE_URL={SERVER}",
        f'DATABASE_URL="{SERVER}"  # pooled\nDIRECT_URL="postgresql://other@host/name"',
        f"{SERVER}\npostgresql://other@host/name",
        SERVER.replace("postgresql", "postgresql+psycopg2"),
        f"jdbc:postgresql://db.example.org/book?user=reader&password={PASSWORD}",
        f"host=db.example.org user=reader password='{PASSWORD}' dbname=book",
        f'psql "host=db.example.org\n user=reader password={PASSWORD} dbname=book"',
        SERVER.replace("@", "\n  @"),
        SERVER + "\r\n",
    ],
    ids=str,
)
def test_what_is_copied_along_with_the_string_is_left_out(string: str) -> None:
    assert dsn.parse(string) == dsn.parse(SERVER)


@pytest.mark.parametrize(
    ("string", "address", "pooled"),
    [
        ("postgres://u1:sk_x@db.prisma.io:5432/?sslmode=require", "u1:sk_x@db.prisma.io:5432/u1", False),
        ("postgres://u1:sk_x@pooled.db.prisma.io:5432/?sslmode=require", "u1:sk_x@pooled.db.prisma.io:5432/u1", True),
        (
            "postgres://avnadmin:AVNS_x@pg-1.aivencloud.com:12345/defaultdb?sslmode=require",
            "avnadmin:AVNS_x@pg-1.aivencloud.com:12345/defaultdb",
            False,
        ),
        (
            "postgresql://postgres.ref:x@aws-0-eu-west-1.pooler.supabase.com:5432/postgres",
            "postgres.ref:x@aws-0-eu-west-1.pooler.supabase.com:5432/postgres",
            False,
        ),
        (
            "postgresql://postgres.ref:x@aws-0-eu-west-1.pooler.supabase.com:6543/postgres",
            "postgres.ref:x@aws-0-eu-west-1.pooler.supabase.com:6543/postgres",
            True,
        ),
        (
            "postgresql://pscale_api_x.y:pscale_pw_z@aws-eu-1.pg.psdb.cloud:6432/postgres?sslmode=verify-full",
            "pscale_api_x.y:pscale_pw_z@aws-eu-1.pg.psdb.cloud:6432/postgres",
            True,
        ),
        ("postgresql://fly-user:x@pgbouncer.abc.flympg.net/fly-db", "fly-user:x@pgbouncer.abc.flympg.net/fly-db", True),
        (
            "postgresql://ws:xau_k@eu-central-1.sql.xata.sh:5432/db:main?sslmode=require",
            "ws:xau_k@eu-central-1.sql.xata.sh:5432/db%3Amain",
            False,
        ),
        (
            "postgres://me%40server:p%2Fw@server.postgres.database.azure.com/postgres?sslmode=Require",
            "me%40server:p%2Fw@server.postgres.database.azure.com/postgres",
            False,
        ),
        (
            "postgresql://postgres:x@[2600:1f16::1]:5432/db?sslmode=require&amp;connect_timeout=10",
            "postgres:x@[2600:1f16::1]:5432/db",
            False,
        ),
    ],
    ids=lambda part: str(part).partition("@")[2] or str(part),
)
def test_the_strings_of_other_dashboards_work_as_pasted(string: str, address: str, *, pooled: bool) -> None:
    parsed = dsn.parse(string)

    assert parsed.url.render_as_string(hide_password=False) == f"postgresql+asyncpg://{address}"
    assert parsed.pooled is pooled


def test_migrations_pass_prismas_pooler_by() -> None:
    direct = dsn.parse("postgres://u1:sk_x@pooled.db.prisma.io:5432/?sslmode=require").direct

    assert (direct.url.host, direct.pooled) == ("db.prisma.io", False)


def test_what_is_said_of_the_pooler_wins() -> None:
    string = f"{SERVER.replace('.org', '.org:6432')}?options=-c%20jit%3Doff"

    assert dsn.parse(string, pooled=False).connect_args["server_settings"] == {"jit": "off"}
    with pytest.raises(ValueError, match="pooler in transaction mode refuses: jit"):
        dsn.parse(SERVER + "?options=-c%20jit%3Doff", pooled=True)


SOCKET = "/cloudsql/project:region:instance"


@pytest.mark.parametrize(
    "string",
    [
        f"postgresql://reader:{PASSWORD}@/book?host={SOCKET}",
        f"postgresql://reader:{PASSWORD}@localhost/book?host={SOCKET}",
        f"postgresql://reader:{PASSWORD}@{quote(SOCKET, safe='')}/book",
        f"postgresql:///book?host={SOCKET}&user=reader&password={PASSWORD}",
        f"postgresql:///?host={SOCKET}&user=reader&password={PASSWORD}&dbname=book",
        f"postgresql://reader:{PASSWORD}@/book?host={SOCKET}&sslmode=require",
        f"postgresql://reader:{PASSWORD}@/book?host={SOCKET}&sslmode=verify-full",
    ],
    ids=str,
)
def test_a_folder_as_host_is_the_unix_socket_in_it(string: str) -> None:
    parsed = dsn.parse(string)
    url = parsed.url

    assert (url.host, url.username, url.password, url.database) == (SOCKET, "reader", PASSWORD, "book")
    assert tls(parsed) is None  # It is not encrypted, whatever the string says.


def test_a_port_can_be_a_parameter() -> None:
    assert parse(port="6000").url.port == 6000


def test_the_systems_certificates_vouch_for_nothing_without_the_hosts_name() -> None:
    # Anyone has a certificate of a public authority; libpq refuses the pair, too.
    with pytest.raises(ValueError, match="sslmode"):
        parse(sslmode="require", sslrootcert="system")


def test_sslrootcert_is_the_one_authority(tmp_path: Path) -> None:
    first, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----")
    authority = tmp_path / "root.crt"
    authority.write_text(first + end)

    context = parse(sslmode="verify-full", sslrootcert=str(authority)).connect_args["ssl"]

    assert context.cert_store_stats()["x509"] == 1


@pytest.mark.parametrize(
    ("given_seconds", "seconds"), [(None, 10.0), ("3", 3.0), ("0", None)], ids=["default", "given", "no limit"]
)
def test_connect_timeout_is_in_seconds(given_seconds: str | None, seconds: float | None) -> None:
    parameters = {} if given_seconds is None else {"connect_timeout": given_seconds}

    assert parse(**parameters).connect_args == {"timeout": seconds}


@pytest.mark.parametrize(
    ("parameters", "server_settings"),
    [
        ({"application_name": "book chat"}, {"application_name": "book chat"}),
        ({"options": "-c search_path=book"}, {"search_path": "book"}),
        ({"options": "-csearch_path=book"}, {"search_path": "book"}),
        ({"options": "--search_path=book"}, {"search_path": "book"}),
        ({"options": "--search-path=book"}, {"search_path": "book"}),
        ({"options": "-c jit=off  --search_path=book"}, {"jit": "off", "search_path": "book"}),
        ({"options": "-c application_name=a=b"}, {"application_name": "a=b"}),
        ({"options": "-c application_name=book--chat"}, {"application_name": "book--chat"}),
        ({"options": "endpoint=ep-cool-term-1 -c jit=off"}, {"jit": "off"}),
        ({"schema": "other"}, {"search_path": "other"}),
        ({"currentSchema": "Other, one"}, {"search_path": '"Other, one"'}),
        ({"options": r"-c application_name=a\ b"}, {"application_name": "a b"}),
        ({"options": r"-c application_name=a\\b -c jit=off"}, {"application_name": r"a\b", "jit": "off"}),
        ({"options": "-c jit=off", "application_name": "chat"}, {"jit": "off", "application_name": "chat"}),
    ],
    ids=str,
)
def test_options_and_application_name_are_settings_of_the_server(
    parameters: dict[str, str], server_settings: dict[str, str]
) -> None:
    assert arguments(**parameters) == {"server_settings": server_settings}


@pytest.mark.parametrize(
    "parameters",
    [
        {"options": "endpoint=ep-cool-term-1"},
        {"options": "project=ep-cool-term-1"},
        {"options": ""},
        {"target_session_attrs": "read-write"},
        {"gssencmode": "prefer"},
        {"sslnegotiation": "direct"},
        {"pgbouncer": "false"},
        {"options": "reference=abcdefgh"},
        {"schema": "public"},
        {"connection_limit": "1", "pool_timeout": "20"},
        {"workaround": "supabase-pooler.vercel"},
        {"supa": "base-pooler.x"},
        {"keepalives": "1", "keepalives_idle": "30"},
        {"uselibpqcompat": "true"},
        {"client_encoding": "UTF8"},
        {"fallback_application_name": "psql"},
        {"channel_binding": "prefer"},
    ],
    ids=str,
)
def test_a_parameter_without_a_meaning_here_is_left_out(parameters: dict[str, str]) -> None:
    assert arguments(**parameters) == {}


@pytest.mark.parametrize(
    ("string", "pooled"),
    [
        (SERVER, False),
        (f"{SERVER}?pgbouncer=true", True),
        (f"{SERVER}?pgbouncer=false", False),
        (f"{SERVER}?pgbouncer=1", True),
        (SERVER.replace("db.", "pgbouncer."), True),
        (SERVER.replace(".org", ".org:6432"), True),
        (SERVER.replace(".org", ".org:25061"), False),
        (SERVER.replace("example.org", "db.ondigitalocean.com:25061"), True),
        (SERVER.replace("example.org", "db.postgresbridge.com:5431"), True),
        (f"{SERVER}?prepareThreshold=0", True),
        (f"{SERVER}?prepared_statements=false", True),
        (f"{SERVER}?connection_limit=1&pool_timeout=20&pgbouncer=true", True),
        (f"{SERVER}?statement_cache_size=0", True),
        (f"{SERVER}?prepared_statement_cache_size=100", False),
        (SERVER.replace(".org", ".org:6543"), True),
        (SERVER.replace(".org", ".org:6543") + "?pgbouncer=true", True),
        (SERVER.replace(".org", ".org:5432"), False),
        (SERVER.replace("db.", "db-pooler."), True),
        (SERVER.replace("db.", "db.a-pooler."), False),
    ],
    ids=lambda part: str(part).partition("@")[2] or str(part),
)
def test_a_pooler_is_told_by_its_host_its_port_or_its_parameter(string: str, *, pooled: bool) -> None:
    parsed = dsn.parse(string)

    assert parsed.pooled is pooled
    assert ("statement_cache_size" in parsed.connect_args) is pooled


@pytest.mark.parametrize(
    ("string", "reason"),
    [
        ("", "not a connection string"),
        (PASSWORD, "not a connection string"),
        (SERVER.replace(".org", ".org:port"), "not a connection string"),
        (f"'{SERVER}", "before postgresql:// it has '$"),
        (f"PGPASSWORD={PASSWORD} psql '{SERVER}'", "before postgresql:// it has"),
        (f"jdbc:{SERVER};", "before postgresql:// it has jdbc:"),
        (f"heroku config:set DATABASE_URL={SERVER}", "it has other text"),
        (f"PGPASSWORD={PASSWORD} psql -h db.example.org -U reader book", "command for psql"),
        ("${{Postgres.DATABASE_URL}}", "reference to another variable"),
        ("$DATABASE_URL", "reference to another variable"),
        (f"prisma+postgres://accelerate.prisma-data.net/?api_key={PASSWORD}", "only Prisma's client"),
        (SERVER.replace("db.example.org", "ours-1234.cockroachlabs.cloud:26257"), "CockroachDB"),
        (SERVER.replace("db.example.org", "abcd.dsql.eu-west-1.on.aws"), "Aurora DSQL"),
        (f"{SERVER}?sslmode=require'", "ends with '"),
        (f"{SERVER};", "ends with ;"),
        (f"Server=db.example.org;Database=book;Password={PASSWORD}", "instead of host="),
        (SERVER.replace(PASSWORD, "[YOUR-PASSWORD]"), "placeholder"),
        (SERVER.replace(PASSWORD, f"[{PASSWORD}]"), "without brackets"),
        (SERVER.replace(PASSWORD, "{your_password}"), "placeholder"),
        (SERVER.replace(PASSWORD, "************"), "placeholder"),
        (f"{SERVER}?schema={PASSWORD}&pgbouncer=true", "names a schema"),
        (f"{SERVER}?ssl={PASSWORD}", "unknown sslmode"),
        (f"postgresql://reader:{PASSWORD}@db.example.org/book?port={PASSWORD}", "port must be from 1 to 65535"),
        (SERVER.replace("postgresql", "mysql"), "scheme 'mysql'"),
        (f"postgresql://:{PASSWORD}@db.example.org/", "names no host or no database"),
        (
            f"{SERVER}?pgbouncer=true&options=-c%20statement_timeout%3D{PASSWORD}",
            "pooler in .* refuses: statement_timeout",
        ),
        (f"postgresql://reader:{PASSWORD}@/book", "names no host or no database"),
        (f"postgresql://reader:p@{PASSWORD}@db.example.org/book", "@"),
        (f"postgresql://reader:p@{PASSWORD}/w@db.example.org/book", "%2F"),
        (f"{SERVER}?sslmode={PASSWORD}", "unknown sslmode; use one of disable, allow, prefer, require, verify-ca"),
        (f"{SERVER}?channel_binding={PASSWORD}", "unknown channel_binding; use one of disable, prefer, require"),
        (f"{SERVER}?sslmode=verify-full&sslrootcert=/nowhere/{PASSWORD}", "sslrootcert that is not a readable file"),
        (f"{SERVER}?sslmode=verify-full&sslrootcert={quote(__file__)}", "sslrootcert that is not a readable file"),
        (f"{SERVER}?connect_timeout={PASSWORD}", "connect_timeout that is not a whole number"),
        (f"{SERVER}?connect_timeout=-1", "connect_timeout that is not a whole number"),
        (f"{SERVER}?options={PASSWORD}", "options that are not of the form -c name=value"),
        (f"{SERVER}?options=branch%3D{PASSWORD}", "not supported here: branch"),
        (f"{SERVER}?password={PASSWORD}&sslmode=require&jit=off", "not supported here: jit, password"),
    ],
    ids=str,
)
def test_a_refusal_gives_the_reason_and_never_the_password(string: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        dsn.parse(string)

    assert PASSWORD not in str(caught.value)


def test_supabases_pooler_is_told_the_project() -> None:
    string = SERVER.replace("db.example.org", "aws-0-eu-central-1.pooler.supabase.com:6543")

    parsed = dsn.parse(f"{string}?options=reference%3Dabcdefgh")

    assert parsed.connect_args["server_settings"] == {"options": "reference=abcdefgh"}


@pytest.mark.parametrize("parameter", ["schema=other", "currentSchema=other", "options=-c%20search_path%3Dother"])
async def test_a_schema_is_where_tables_are_made_and_found(postgres: PostgresServer, parameter: str) -> None:
    database = Database(dsn.parse(f"{postgres.url()}?{parameter}"), pool_size=1)
    try:
        await database.execute((text("CREATE SCHEMA IF NOT EXISTS other"), {}))
        [row] = await database.execute((text("SELECT current_schema()"), {}))
    finally:
        await database.close()

    assert row[0] == "other"


@pytest.mark.parametrize(("parameter", "pooled"), [("", False), ("?pgbouncer=true", True)], ids=["direct", "pooled"])
async def test_statements_are_prepared_on_direct_connections_alone(
    postgres: PostgresServer, parameter: str, *, pooled: bool
) -> None:
    database = Database(dsn.parse(postgres.url() + parameter), pool_size=1)
    count = text("SELECT count(*) FROM pg_prepared_statements")
    try:
        await database.execute((count, {}))
        [row] = await database.execute((count, {}))
    finally:
        await database.close()

    assert (row[0] == 0) is pooled
