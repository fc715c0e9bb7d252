"""Every setting of the service; nothing else reads the environment."""

import json
import re
import string
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self, override

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    HttpUrl,
    RedisDsn,
    SecretStr,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from app import dsn
from app.dsn import Dsn

_INVISIBLE = (
    string.whitespace
    + "\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}\N{IDEOGRAPHIC SPACE}\N{SOFT HYPHEN}"
    + "\N{ZERO WIDTH SPACE}\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}\N{WORD JOINER}\N{ZERO WIDTH NO-BREAK SPACE}"
    + "\N{LEFT-TO-RIGHT MARK}\N{RIGHT-TO-LEFT MARK}\N{LINE SEPARATOR}\N{PARAGRAPH SEPARATOR}"
)
"""What may be copied with a value from a page or a document without being seen."""

_QUOTES = ('""', "''", "``", "“”", "„“", "\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}", "«»")

_NEVER_MEANT = re.compile("[\x00-\x08\x0e-\x1f\N{ZERO WIDTH SPACE}\N{WORD JOINER}\N{ZERO WIDTH NO-BREAK SPACE}]")

_SECRET_HEADER = re.compile("auth|cookie|key|password|secret|token", re.IGNORECASE)
"""Names of headers whose values are credentials."""

DEFAULT_MODEL = "gpt-6-luna"
"""The newest inexpensive model of the Chat Completions API. It thinks before it answers, unless it is told not to."""

_TURN_MARGIN_SECONDS = 10.0
"""How much longer than its model's answer a turn may take: the time for retrieval and the database."""

_EMBEDDED_DATABASE_URL = "sqlite+aiosqlite:///chat.db"


class SettingsError(Exception):
    """The service cannot start with these settings; the message names every variable that is missing or wrong."""


def _cleaned(text: str) -> str:
    """Return the text without blanks, quotes and invisible characters around it."""
    text = text.strip(_INVISIBLE)
    while len(text) > 1 and text[0] + text[-1] in _QUOTES:
        text = text[1:-1].strip(_INVISIBLE)
    return text


def _base_url(text: str) -> str:
    """Return the address under which the OpenAI API is, also from the full address of its endpoint; raises ValueError."""
    url = HttpUrl(text)
    if url.username or url.password or url.fragment:
        raise ValueError("must have neither a user nor a fragment; OPENAI_CUSTOM_HEADERS takes an Authorization")
    address, question_mark, query = str(url).partition("?")
    return address.rstrip("/").removesuffix("/chat/completions") + question_mark + query


def _origin(text: str) -> str:
    """Return an origin as browsers send it; raises ValueError."""
    if text == "*":
        return text
    try:
        url = HttpUrl(text)
    except ValidationError:
        raise ValueError(f"{text!r} is not an origin such as https://book.example.org") from None
    if url.username or url.path != "/" or url.query or url.fragment or "*" in (url.host or ""):
        raise ValueError(
            f"{text!r} is not an origin such as https://book.example.org; CORS_ORIGIN_REGEX takes patterns"
        )
    return str(url).removesuffix("/")


class Price(BaseModel):
    """What a model costs for a million tokens, in any currency."""

    model_config = {"extra": "forbid", "frozen": True}

    input: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    cached_input: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """What the tokens of a prompt cost that the provider had cached. Unset: as much as the others."""
    output: Annotated[float, Field(ge=0, allow_inf_nan=False)]


_PRICES = TypeAdapter(dict[str, Price])


class Environment(BaseSettings):
    """Development or production; unlike the other settings, this one is never missing or malformed."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Look at `.env` only where there is one: to look for every setting in nothing takes as long as in the variables."""
        files = [dotenv_settings] if Path(".env").exists() else []
        return init_settings, env_settings, *files

    fastapi_env: str = "production"
    """`development`, set by `fastapi dev`, allows the embedded defaults; any other value is production."""

    @model_validator(mode="before")
    @classmethod
    def _without_what_pasting_adds(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Strip blanks, quotes and invisible characters from both ends of each value; what is then empty is unset."""
        cleaned = {name: _cleaned(value) if isinstance(value, str) else value for name, value in values.items()}
        return {name: value for name, value in cleaned.items() if value != ""}

    @property
    def development(self) -> bool:
        """Whether the embedded defaults are allowed."""
        return self.fastapi_env == "development"


class DatabaseSettings(Environment):
    """What a migration needs to know."""

    database_pooled: bool | None = None
    """Whether the service reaches the database through a pooler in transaction mode. Unset: read from `database_url`."""
    database_url: Annotated[SecretStr | None, Field(validate_default=True)] = None
    """The PostgreSQL connection string, as the provider shows it. Required in production."""

    @classmethod
    def load(cls) -> Self:
        """Read the environment and `.env`; raises SettingsError."""
        try:
            return cls()
        except ValidationError as error:
            wrong = [f"  {str(e['loc'][0]).upper()} {e['msg'].removeprefix('Value error, ')}" for e in error.errors()]
            # The validation error is not chained: a traceback would print the values of the variables.
            raise SettingsError("\n".join(["The service cannot start with these settings:", *wrong])) from None

    @field_validator("*", mode="before")
    @classmethod
    def _is_visible(cls, value: object) -> object:
        if isinstance(value, str) and _NEVER_MEANT.search(value):
            raise ValueError("has an invisible character in it; please type it again")
        return value

    @field_validator("database_url")
    @classmethod
    def _database_url_is_usable(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None:
            dsn.parse(value.get_secret_value(), pooled=info.data.get("database_pooled"))
        return _required_in_production(value, info)

    @cached_property
    def database(self) -> Dsn:
        """The database to connect to; the embedded one if none is named."""
        url = self.database_url.get_secret_value() if self.database_url else _EMBEDDED_DATABASE_URL
        return dsn.parse(url, pooled=self.database_pooled)


class Settings(DatabaseSettings):
    """What the service needs to know."""

    openai_api_key: Annotated[SecretStr | None, Field(validate_default=True)] = None
    """The OpenAI API key. Required in production; without it, development answers with the offline stand-in."""
    openai_base_url: Annotated[str, AfterValidator(_base_url)] = "https://api.openai.com/v1"
    """The server to ask, OpenAI's or a compatible one."""
    openai_model: str = DEFAULT_MODEL
    """The model that answers."""
    openai_embedding_model: str = "text-embedding-3-small"
    """The model that compares questions with the book by their meaning."""
    openai_org_id: str | None = None
    """The organization that pays, for API keys that belong to several."""
    openai_project_id: str | None = None
    """The project that pays, for API keys that belong to several."""
    openai_custom_headers: SecretStr | None = None
    """Headers for every request to the model, one `Name: value` on each line."""
    openai_reasoning_effort: str | None = None
    """How much a reasoning model may think, in the server's own words. Unset: `none` for the default model, else up to the model."""
    openai_extra_body: Annotated[dict[str, Any], NoDecode] = {}
    """A JSON object of what to add to the body of every request to the model."""
    openai_timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 30.0
    """How long the model may be silent: to the first piece of its answer, and between pieces. It is the deadline of an answer that
    is not streamed, retries included."""
    openai_total_seconds: Annotated[float, Field(gt=0, le=3_600)] = 300.0
    """The longest that an answer may take, retries included."""
    openai_max_retries: Annotated[int, Field(ge=0, le=10)] = 2
    """How often a model call is repeated after a transient failure, while nothing of its answer has been shown."""
    openai_prices: Annotated[dict[str, Price], NoDecode] = {}
    """A JSON object of what models cost for a million tokens: `input`, `output` and, if it differs, `cached_input`."""
    max_answer_chars: Annotated[int, Field(gt=0)] = 100_000
    """The most characters that an answer may have; a longer one is cut off."""

    book_title: str = "Physical AI & Humanoid Robotics"
    """The book that the assistant answers questions about."""
    assistant_instructions: str | None = None
    """What else the assistant is told about its manner, such as how it addresses readers. The rules for quoted text stay."""
    history_limit: Annotated[int, Field(ge=0, le=100)] = 10
    """The most earlier messages of the session that the model is sent, in pairs of question and answer."""
    max_message_chars: Annotated[int, Field(gt=0)] = 4_000
    """The most characters that a message may have."""
    max_selected_text_chars: Annotated[int, Field(gt=0)] = 20_000
    """The most characters that selected text may have."""

    cors_origins: Annotated[tuple[str, ...], NoDecode] = ("http://localhost:3000",)
    """The origins of the websites that may call the service, separated by commas."""
    cors_origin_regex: str | None = None
    """A pattern for more origins, such as preview deployments. It must match the whole origin."""

    database_pool_size: Annotated[int, Field(gt=0, le=100)] = 5
    """The most database connections that one process opens."""

    max_concurrent_turns: Annotated[int, Field(gt=0)] = 1_000
    """The most turns that one process works on at the same time. More are refused as `overloaded`."""
    rate_limit: str | None = None
    """How many questions one reader may ask, such as `20/minute;200/day`, and an address ten times as many. Unset: no limit."""
    rate_limit_storage: SecretStr | None = None
    """The Redis server that counts for all processes, such as `redis://host:6379`. Unset: each process counts its own."""
    daily_token_budget: Annotated[int, Field(gt=0)] | None = None
    """How many tokens the answers of one day (UTC) may cost, for all processes together. Unset: no limit."""
    client_address_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")] | None = None
    """The header in which the platform's proxy sends the reader's address; its last entry counts."""
    shutdown_grace_seconds: Annotated[float, Field(ge=0)] = 20.0
    """How many seconds running turns may take to finish when the process is stopped."""

    mcp_enabled: bool = False
    """Whether readers' own assistants may search the books, by the Model Context Protocol at `/mcp`."""

    host: str | None = None
    """The address on which `python -m app` listens. Unset: every address in production, and 127.0.0.1 in development."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8_000
    """The port on which `python -m app` listens."""
    web_concurrency: Annotated[int, Field(gt=0)] = 1
    """How many processes of `python -m app` serve requests."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    """The lowest level of log records that are written."""

    @field_validator("openai_api_key")
    @classmethod
    def _openai_api_key_is_given(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        return _required_in_production(value, info)

    @field_validator("openai_api_key", "openai_org_id", "openai_project_id")
    @classmethod
    def _fits_into_a_header(cls, value: SecretStr | str | None) -> SecretStr | str | None:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        if text and not re.fullmatch("[!-~]+", text):
            raise ValueError("has blanks or characters that are not ASCII")
        return value

    @field_validator("openai_custom_headers")
    @classmethod
    def _headers_are_understood(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _headers(value)
        return value

    @field_validator("openai_extra_body", mode="before")
    @classmethod
    def _extra_body_is_an_object(cls, value: object) -> object:
        if isinstance(value, str):
            try:
                value = json.loads(value)
                json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
            except (ValueError, RecursionError):
                value = None
        if not isinstance(value, dict):
            raise ValueError('is not a JSON object such as {"temperature": 0.2}')  # noqa: TRY004  # Pydantic expects it.
        if ours := {"model", "messages", "stream"} & value.keys():
            raise ValueError(f"must not set {', '.join(sorted(ours))}")
        return value

    @field_validator("openai_prices", mode="before")
    @classmethod
    def _prices_are_understood(cls, value: object) -> object:
        try:
            return _PRICES.validate_json(value) if isinstance(value, str) else value
        except ValidationError:
            raise ValueError('is not a JSON object such as {"my-model": {"input": 0.5, "output": 2}}') from None

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: str | tuple[str, ...]) -> tuple[str, ...]:
        origins = value.split(",") if isinstance(value, str) else value
        return tuple(_origin(origin.strip()) for origin in origins if origin.strip())

    @field_validator("cors_origin_regex")
    @classmethod
    def _pattern_compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from None
        return value

    @field_validator("rate_limit")
    @classmethod
    def _rate_is_understood(cls, value: str | None) -> str | None:
        if value is not None:
            from limits import parse_many  # noqa: PLC0415  # A service without a limit starts faster without it.

            try:
                rates = parse_many(value)
            except ValueError:
                rates = []
            if not rates or any(rate.amount < 1 for rate in rates):
                raise ValueError("is neither a rate such as 30/minute, nor several such as 20/minute;200/day")
        return value

    @field_validator("rate_limit_storage")
    @classmethod
    def _storage_is_redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                RedisDsn(value.get_secret_value())
            except ValidationError:
                raise ValueError("is not an address such as redis://host:6379") from None
            if find_spec("redis") is None:
                raise ValueError("needs the redis extra: uv sync --extra redis")
        return value

    @field_validator("mcp_enabled")
    @classmethod
    def _mcp_is_installed(cls, value: bool) -> bool:  # noqa: FBT001  # Pydantic calls it.
        if value and find_spec("mcp") is None:
            raise ValueError("needs the mcp extra: uv sync --extra mcp")
        if value and find_spec("app.book") is None:
            raise ValueError("needs the folder app/book")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper_case(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @property
    def openai_options(self) -> dict[str, Any]:
        """What every request to the model has besides the model and its messages."""
        effort = self.openai_reasoning_effort
        if effort is None and self.openai_model == DEFAULT_MODEL:
            return {"reasoning_effort": "none", **self.openai_extra_body}
        return {**self.openai_extra_body, **({"reasoning_effort": effort} if effort else {})}

    def answer_seconds(self, *, is_streamed: bool) -> float:
        """Return the longest that the model may take for an answer."""
        return self.openai_total_seconds if is_streamed else min(self.openai_timeout_seconds, self.openai_total_seconds)

    def turn_seconds(self, *, is_streamed: bool) -> float:
        """Return the longest that a turn may take, with retrieval and the database."""
        return self.answer_seconds(is_streamed=is_streamed) + _TURN_MARGIN_SECONDS

    @property
    def openai_headers(self) -> dict[str, str]:
        """The custom headers by name."""
        return _headers(self.openai_custom_headers) if self.openai_custom_headers else {}

    @property
    def secrets(self) -> list[str]:
        """What must not get into the log: the API key, the passwords of the database and of Redis, and headers' credentials."""
        redis = RedisDsn(self.rate_limit_storage.get_secret_value()) if self.rate_limit_storage else None
        key = self.openai_api_key.get_secret_value() if self.openai_api_key else None
        # Of `Bearer …` and `Basic …` only the second word is secret.
        credentials = [v.rpartition(" ")[2] for name, v in self.openai_headers.items() if _SECRET_HEADER.search(name)]
        found = [key, self.database.url.password, redis.password if redis else None, *credentials]
        return [str(secret) for secret in found if secret]

    @property
    def max_body_bytes(self) -> int:
        """The largest request body: the two longest texts with every character escaped in JSON, and some room for the rest."""
        return 12 * (self.max_message_chars + self.max_selected_text_chars) + 32_768


def _headers(text: SecretStr) -> dict[str, str]:
    """Return the headers by name; raises ValueError if a line is not a header."""
    headers = {}
    for line in filter(str.strip, text.get_secret_value().splitlines()):
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name.strip()) or not line.isascii():
            raise ValueError("has a line that is not of the form Name: value")
        headers[name.strip()] = value.strip()
    return headers


def _required_in_production(value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    if value is None and info.data.get("fastapi_env") != "development":
        raise ValueError("is missing")
    return value
