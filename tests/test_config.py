"""The settings: what each is, where it comes from, and what stops the start."""

import json
import re
import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.config import DatabaseSettings, Price, Settings, SettingsError
from app.llm import LanguageModel
from tests import commands
from tests.conftest import API_KEY, PASSWORD

POSTGRESQL_URL = f"postgresql://reader:{PASSWORD}@db.example.org/book"

SETTINGS: dict[str, tuple[Any, str, Any]] = {
    # setting: its default, a variable's text, what the text means
    "fastapi_env": ("production", "development", "development"),
    "database_url": (None, POSTGRESQL_URL, SecretStr(POSTGRESQL_URL)),
    "database_pooled": (None, "true", True),
    "openai_api_key": (None, API_KEY, SecretStr(API_KEY)),
    "openai_base_url": (
        "https://api.openai.com/v1",
        "https://gateway.example.org/v1",
        "https://gateway.example.org/v1",
    ),
    "openai_model": ("gpt-6-luna", "gpt-5.4", "gpt-5.4"),
    "openai_embedding_model": ("text-embedding-3-small", "nomic-embed-text", "nomic-embed-text"),
    "openai_org_id": (None, "org-1", "org-1"),
    "openai_project_id": (None, "proj_1", "proj_1"),
    "openai_custom_headers": (None, "X-Team: books", SecretStr("X-Team: books")),
    "openai_reasoning_effort": (None, "max", "max"),
    "openai_extra_body": ({}, '{"temperature": 0.2}', {"temperature": 0.2}),
    "openai_timeout_seconds": (30.0, "2.5", 2.5),
    "openai_total_seconds": (300.0, "12.5", 12.5),
    "openai_max_retries": (2, "0", 0),
    "max_answer_chars": (100_000, "500", 500),
    "mcp_enabled": (False, "true", True),
    "openai_prices": ({}, '{"m": {"input": 1, "output": 2.5}}', {"m": Price(input=1, output=2.5)}),
    "book_title": ("Physical AI & Humanoid Robotics", "Gardening, 2nd ed.", "Gardening, 2nd ed."),
    "history_limit": (10, "0", 0),
    "max_message_chars": (4_000, "1", 1),
    "max_selected_text_chars": (20_000, "1", 1),
    "cors_origins": (
        ("http://localhost:3000",),
        " https://Book.example.org/ ,http://127.0.0.1:3000,",
        ("https://book.example.org", "http://127.0.0.1:3000"),
    ),
    "cors_origin_regex": (None, r"https://.*\.vercel\.app", r"https://.*\.vercel\.app"),
    "database_pool_size": (5, "100", 100),
    "max_concurrent_turns": (1000, "8", 8),
    "rate_limit": (None, "30/minute", "30/minute"),
    "daily_token_budget": (None, "1000000", 1_000_000),
    "assistant_instructions": (None, "Be brief.", "Be brief."),
    "rate_limit_storage": (None, "redis://:pw@cache", SecretStr("redis://:pw@cache")),
    "client_address_header": (None, "X-Forwarded-For", "X-Forwarded-For"),
    "shutdown_grace_seconds": (20.0, "2.5", 2.5),
    "host": (None, "192.0.2.1", "192.0.2.1"),
    "port": (8000, "80", 80),
    "web_concurrency": (1, "4", 4),
    "log_level": ("INFO", "debug", "DEBUG"),
}

MALFORMED = [
    ("DATABASE_URL", "mysql://reader@db.example.org/book"),
    ("DATABASE_URL", "the database"),
    ("DATABASE_URL", "postgresql://reader@db.example.org/book?sslmode=sometimes"),
    ("DATABASE_POOLED", "perhaps"),
    ("OPENAI_BASE_URL", "api.example.org/v1"),
    ("OPENAI_BASE_URL", "ftp://api.example.org"),
    ("OPENAI_BASE_URL", "https://"),
    ("OPENAI_BASE_URL", "http://[::1"),
    ("OPENAI_BASE_URL", "http://localhost:port/v1"),
    ("OPENAI_BASE_URL", "https://reader:pw@api.example.org/v1"),
    ("OPENAI_BASE_URL", "https://api.example.org/v1#chat"),
    ("OPENAI_ORG_ID", "org one"),
    ("OPENAI_API_KEY", "sk-\N{ZERO WIDTH SPACE}test"),
    ("OPENAI_API_KEY", "sk-tést"),
    ("OPENAI_CUSTOM_HEADERS", "no colon"),
    ("OPENAI_CUSTOM_HEADERS", "X Name: value"),
    ("OPENAI_EXTRA_BODY", "temperature: 0.2"),
    ("OPENAI_EXTRA_BODY", "[1]"),
    ("OPENAI_EXTRA_BODY", '{"messages": []}'),
    ("OPENAI_EXTRA_BODY", '{"temperature": NaN}'),
    ("OPENAI_EXTRA_BODY", '{"stop": "\\ud800"}'),
    ("OPENAI_EXTRA_BODY", '{"stop": ' + "[" * 20_000),
    ("OPENAI_PRICES", "cheap"),
    ("OPENAI_PRICES", '{"m": 1}'),
    ("OPENAI_PRICES", '{"m": {"input": 1}}'),
    ("OPENAI_PRICES", '{"m": {"input": -1, "output": 1}}'),
    ("OPENAI_PRICES", '{"m": {"input": NaN, "output": 1}}'),
    ("OPENAI_PRICES", '{"m": {"in": 1, "input": 1, "output": 1}}'),
    ("OPENAI_TIMEOUT_SECONDS", "abc"),
    ("OPENAI_TIMEOUT_SECONDS", "0"),
    ("OPENAI_TIMEOUT_SECONDS", "nan"),
    ("OPENAI_TIMEOUT_SECONDS", "601"),
    ("OPENAI_MAX_RETRIES", "-1"),
    ("OPENAI_MAX_RETRIES", "11"),
    ("HISTORY_LIMIT", "-1"),
    ("HISTORY_LIMIT", "101"),
    ("HISTORY_LIMIT", "ten"),
    ("MAX_MESSAGE_CHARS", "0"),
    ("MAX_SELECTED_TEXT_CHARS", "0"),
    ("CORS_ORIGINS", "everywhere"),
    ("CORS_ORIGINS", "localhost:3000"),
    ("CORS_ORIGINS", "https://book.example.org/robots"),
    ("CORS_ORIGINS", "http://localhost:3000,https://book.example.org?page=1"),
    ("CORS_ORIGINS", "http://localhost:port"),
    ("CORS_ORIGINS", "https://reader@book.example.org"),
    ("CORS_ORIGIN_REGEX", "["),
    ("DATABASE_POOL_SIZE", "0"),
    ("DATABASE_POOL_SIZE", "101"),
    ("MAX_CONCURRENT_TURNS", "0"),
    ("RATE_LIMIT", "often"),
    ("RATE_LIMIT_STORAGE", "memcached://cache"),
    ("SHUTDOWN_GRACE_SECONDS", "-1"),
    ("PORT", "$PORT"),
    ("PORT", "65536"),
    ("PORT", "-1"),
    ("MCP_ENABLED", "perhaps"),
    ("WEB_CONCURRENCY", "0"),
    ("WEB_CONCURRENCY", "auto"),
    ("LOG_LEVEL", "loud"),
]


@pytest.fixture
def _development(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAPI_ENV", "development")


def complaints(kind: type[DatabaseSettings] = Settings) -> dict[str, str]:
    """The variables that the SettingsError names, each once, with what is wrong about them."""
    with pytest.raises(SettingsError) as caught:
        kind.load()
    heading, *lines = str(caught.value).splitlines()
    assert heading == "The service cannot start with these settings:"
    found = [line.strip().partition(" ") for line in lines]
    assert len({name for name, _, _ in found}) == len(lines)
    return {name: reason for name, _, reason in found}


def test_every_setting_is_known_to_these_tests() -> None:
    assert set(SETTINGS) == set(Settings.model_fields)


@pytest.mark.usefixtures("_development")
@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "fastapi_env"])
def test_a_setting_has_its_default(name: str) -> None:
    default, _, _ = SETTINGS[name]

    assert getattr(Settings.load(), name) == default


@pytest.mark.usefixtures("_development")
@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_read_from_its_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, text, value = SETTINGS[name]
    monkeypatch.setenv(name.upper(), text)

    assert getattr(Settings.load(), name) == value


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_read_from_the_env_file_of_the_working_directory(name: str, tmp_path: Path) -> None:
    lines = {"fastapi_env": "development", name: SETTINGS[name][1]}
    (tmp_path / ".env").write_text("".join(f"{key.upper()}='{text}'\n" for key, text in lines.items()))

    assert getattr(Settings.load(), name) == SETTINGS[name][2]


@pytest.mark.usefixtures("_development")
def test_the_environment_overrules_the_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BOOK_TITLE=of the file\nOPENAI_MODEL=of-the-file\n")
    monkeypatch.setenv("BOOK_TITLE", "of the environment")

    settings = Settings.load()

    assert (settings.book_title, settings.openai_model) == ("of the environment", "of-the-file")


@pytest.mark.usefixtures("_development")
def test_variables_of_others_in_the_env_file_are_none_of_our_business(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("NODE_ENV=production\nHISTORY_LIMIT=3\n")

    assert Settings.load().history_limit == 3


@pytest.mark.usefixtures("_development")
def test_an_empty_base_url_is_openais_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "")

    model = LanguageModel(Settings.load())

    assert str(model._client.base_url) == "https://api.openai.com/v1/"  # noqa: SLF001  # The SDK reads the variable too.


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("HTTPS_PROXY", "foo://proxy:1", "not an address such as http://proxy"),
        ("HTTPS_PROXY", "not an address", "not an address such as http://proxy"),
        ("ALL_PROXY", "socks5://proxy:1080", "not an address such as http://proxy"),
        ("HTTP_PROXY", f"http://reader:{PASSWORD}@[::1", "not an address such as http://proxy"),
        ("SSL_CERT_FILE", "/nowhere", "No such file"),
        ("SSL_CERT_FILE", __file__, "(?i)no.certificate"),
    ],
)
def test_a_proxy_or_certificate_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///chat.db")
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError, match=variable) as refusal:
        LanguageModel(Settings.load())

    assert re.search(reason, str(refusal.value))
    assert PASSWORD not in str(refusal.value)


@pytest.mark.usefixtures("_development")
def test_values_from_the_env_file_reach_the_sdk(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        'OPENAI_ORG_ID="org-1"\nOPENAI_PROJECT_ID=proj_1\nOPENAI_CUSTOM_HEADERS="X-Team: books\\nX-Title: Our book"\n'
    )

    settings = Settings.load()

    assert (settings.openai_org_id, settings.openai_project_id) == ("org-1", "proj_1")
    assert settings.openai_headers == {"X-Team": "books", "X-Title": "Our book"}


@pytest.mark.parametrize(
    "pasted",
    [
        f" {API_KEY}\n",
        f'"{API_KEY}"',
        f"'{API_KEY}'",
        f"\ufeff{API_KEY}",
        f"{API_KEY}\u200b",
        f"\u00a0{API_KEY}\u2060",
        f'\u200b" {API_KEY} "',
    ],
)
def test_what_pasting_adds_to_a_key_is_left_out(monkeypatch: pytest.MonkeyPatch, pasted: str) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///chat.db")
    monkeypatch.setenv("OPENAI_API_KEY", pasted)

    assert Settings.load().openai_api_key == SecretStr(API_KEY)


@pytest.mark.usefixtures("_development")
def test_blanks_around_the_base_url_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", " http://localhost:11434/v1 ")

    assert Settings.load().openai_base_url == "http://localhost:11434/v1"


@pytest.mark.usefixtures("_development")
@pytest.mark.parametrize(
    "around", ["{}", " {}\n", "\ufeff{}", "\u200b{}\u00a0", "'{}'", '"{}"', "“{}”", " \ufeff'\u200e{} '"]
)
@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_pasted_around_a_value_is_left_out(name: str, around: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, text, value = SETTINGS[name]
    monkeypatch.setenv(name.upper(), around.format(text))

    assert getattr(Settings.load(), name) == value


@pytest.mark.usefixtures("_development")
@pytest.mark.parametrize("text", ["''", '""', " \ufeff", "' '", "\u200b"])
def test_a_value_of_nothing_visible_counts_as_unset(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unset = Settings.load()
    for name in SETTINGS.keys() - {"fastapi_env"}:
        monkeypatch.setenv(name.upper(), text)

    assert Settings.load() == unset


def test_an_env_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("FASTAPI_ENV=development\nHISTORY_LIMIT=3\n", encoding="utf-8-sig")

    assert Settings.load().history_limit == 3


@pytest.mark.usefixtures("_development")
@pytest.mark.parametrize(
    ("pasted", "understood"),
    [
        ("https://api.deepseek.com", "https://api.deepseek.com"),
        ("http://127.0.0.1:4000/", "http://127.0.0.1:4000"),
        ("https://api.example.org/v1/chat/completions/", "https://api.example.org/v1"),
        (
            "https://r.example.org/openai/deployments/d?api-version=1",
            "https://r.example.org/openai/deployments/d?api-version=1",
        ),
        ("https://r.example.org/d/chat/completions?api-version=1", "https://r.example.org/d?api-version=1"),
        ("https://r.example.org/d/?api-version=1", "https://r.example.org/d?api-version=1"),
        ("HTTPS://API.example.org/v1", "https://api.example.org/v1"),
    ],
)
def test_the_base_url_is_taken_in_every_form(pasted: str, understood: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", pasted)

    assert Settings.load().openai_base_url == understood


@pytest.mark.usefixtures("_development")
def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    unset = Settings.load()
    for name in SETTINGS.keys() - {"fastapi_env"}:
        monkeypatch.setenv(name.upper(), "")

    assert Settings.load() == unset


@pytest.mark.parametrize("environment", [None, "", "production", "staging", "test"])
def test_production_is_everything_but_development(environment: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if environment is not None:
        monkeypatch.setenv("FASTAPI_ENV", environment)

    assert complaints() == {"DATABASE_URL": "is missing", "OPENAI_API_KEY": "is missing"}


@pytest.mark.usefixtures("_development")
def test_development_allows_the_embedded_defaults() -> None:
    settings = Settings.load()

    assert settings.development
    assert settings.openai_api_key is None
    assert settings.database.url.render_as_string() == "sqlite+aiosqlite:///chat.db"


def test_production_starts_with_the_two_mandatory_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", POSTGRESQL_URL)
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)

    settings = Settings.load()

    assert not settings.development
    assert settings.database.url.host == "db.example.org"


@pytest.mark.parametrize(("variable", "text"), MALFORMED, ids=lambda part: part)
def test_what_is_malformed_is_named_together_with_what_is_missing(
    variable: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)

    found = complaints()

    assert found.keys() == {"DATABASE_URL", "OPENAI_API_KEY", variable}
    assert found.pop(variable) not in {"", "is missing"}
    assert set(found.values()) == {"is missing"}


@pytest.mark.usefixtures("_development")
def test_what_is_malformed_stops_the_start_of_development_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "loud")

    assert complaints().keys() == {"LOG_LEVEL"}


def test_everything_that_is_wrong_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, text in dict(reversed(MALFORMED)).items():
        monkeypatch.setenv(variable, text)

    assert complaints().keys() == {"OPENAI_API_KEY", *dict(MALFORMED)}


@pytest.mark.parametrize(
    "database_url",
    [
        POSTGRESQL_URL.replace("postgresql", "mysql"),
        POSTGRESQL_URL.removesuffix("/book").replace("reader", ""),
        POSTGRESQL_URL.replace(".org/", ".org:port/"),
        f"{POSTGRESQL_URL}?sslmode={PASSWORD}",
        f"postgresql://db.example.org/book?user=reader&passfile={PASSWORD}",
    ],
)
def test_a_refusal_quotes_no_secret(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)
    monkeypatch.setenv("LOG_LEVEL", "loud")

    with pytest.raises(SettingsError, match="DATABASE_URL") as caught:
        Settings.load()

    printed = "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in printed
    assert API_KEY not in printed


def test_settings_print_without_their_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", POSTGRESQL_URL)
    monkeypatch.setenv("OPENAI_API_KEY", API_KEY)

    printed = repr(Settings.load())

    assert "gpt-6-luna" in printed
    assert PASSWORD not in printed
    assert API_KEY not in printed


def test_a_migration_needs_the_database_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISTORY_LIMIT", "-1")
    assert complaints(DatabaseSettings) == {"DATABASE_URL": "is missing"}

    monkeypatch.setenv("DATABASE_URL", POSTGRESQL_URL)
    assert DatabaseSettings.load().database.url.host == "db.example.org"


@pytest.mark.parametrize("host", ["db.example.org", "ep-cool-1-pooler.neon.tech"])
@pytest.mark.parametrize("pooled", [True, False])
def test_database_pooled_overrules_what_the_connection_string_shows(
    host: str, *, pooled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://reader@{host}/book")
    monkeypatch.setenv("DATABASE_POOLED", str(pooled))

    assert DatabaseSettings.load().database.pooled is pooled


@pytest.mark.usefixtures("_development")
def test_a_body_with_the_longest_texts_fits_however_it_is_escaped() -> None:
    settings = Settings.load()
    longest = {
        "message": "\N{ROBOT FACE}" * settings.max_message_chars,
        "session_id": "00000000-0000-4000-8000-000000000000",
        "selected_text": "\N{ROBOT FACE}" * settings.max_selected_text_chars,
    }

    assert len(json.dumps(longest, ensure_ascii=True, indent=4)) <= settings.max_body_bytes


@pytest.mark.slow
def test_the_application_imports_without_settings_and_touches_nothing(tmp_path: Path) -> None:
    touching = """
import sys
def watch(event, arguments):
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writes or event in {"socket.connect", "socket.bind", "sqlite3.connect", "subprocess.Popen"}:
        print(event, arguments)
sys.addaudithook(watch)
import app.main
print(*app.main.app.openapi()["paths"])
"""

    status, output = commands.run("-c", touching, folder=tmp_path)

    assert status == 0, output
    [paths] = output.splitlines()
    assert "/chat" in paths.split()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_production_start_without_settings_fails_and_says_what_is_missing(tmp_path: Path) -> None:
    status, output = commands.run("-m", "uvicorn", "app.main:app", "--port", "0", folder=tmp_path, HISTORY_LIMIT="-1")

    assert status > 0
    assert {name: output.count(name) for name in ("OPENAI_API_KEY", "DATABASE_URL", "HISTORY_LIMIT")} == {
        "OPENAI_API_KEY": 1,
        "DATABASE_URL": 1,
        "HISTORY_LIMIT": 1,
    }
    assert list(tmp_path.iterdir()) == []
