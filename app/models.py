"""Every SQLModel: the tables and, beside them, what the API takes and returns."""

import re
import struct
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, NotRequired, TypedDict, override

from pgvector.sqlalchemy import VECTOR
from pydantic import AfterValidator, HttpUrl, TypeAdapter, ValidationError, ValidationInfo, field_validator
from sqlalchemy import (
    ARRAY,
    JSON,
    REAL,
    BigInteger,
    BindParameter,
    Column,
    ColumnElement,
    Dialect,
    Enum,
    Float,
    Index,
    LargeBinary,
    Row,
    SmallInteger,
    Text,
    TypeDecorator,
    cast,
    literal,
    text,
    type_coerce,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeEngine
from sqlmodel import Field, SQLModel

EMBEDDING_DIMENSIONS = 1536

# Alembic drops constraints by name, and SQLite names none by itself: these are the names that PostgreSQL gives.
SQLModel.metadata.naming_convention = {
    "ix": "ix_%(column_0_label)s",
    "fk": "%(table_name)s_%(column_0_name)s_fkey",
    "uq": "%(table_name)s_%(column_0_name)s_key",
}


def utc_now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)


class TimeInDatabase(FunctionElement[datetime]):
    """The time so many seconds from now by the database's clock, the one that all processes share; NULL for NULL seconds."""

    inherit_cache = True

    def __init__(self, seconds: ColumnElement[float] | float = 0.0) -> None:
        super().__init__(literal(seconds, Float()) if isinstance(seconds, (float, int)) else seconds)


@compiles(TimeInDatabase, "postgresql")
def _time_in_postgresql(element: TimeInDatabase, compiler: Any, **kwargs: Any) -> str:
    return f"(statement_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kwargs)}))"


@compiles(TimeInDatabase, "sqlite")
def _time_in_sqlite(element: TimeInDatabase, compiler: Any, **kwargs: Any) -> str:
    # It counts milliseconds, and times are stored with microseconds.
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', {compiler.process(element.clauses, **kwargs)} || ' seconds')"


class MessageRole(StrEnum):
    """Who speaks, in the words of the Chat Completions API."""

    user = "user"
    assistant = "assistant"
    system = "system"


class Role(TypeDecorator[MessageRole]):
    """A role: an enum of PostgreSQL's, whose values travel as text.

    Of a type that is not PostgreSQL's own, asyncpg would ask the database on each new connection, three round trips long, before the
    first statement.
    """

    impl = Enum(MessageRole, name="message_role_enum")
    cache_ok = True

    @override
    def bind_expression(self, bindparam: BindParameter[MessageRole]) -> ColumnElement[MessageRole]:
        return cast(type_coerce(bindparam, Text), self.impl_instance)

    @override
    def column_expression(self, column: ColumnElement[MessageRole]) -> ColumnElement[MessageRole]:
        return type_coerce(cast(column, Text), self)


class Embedding(TypeDecorator[Sequence[float]]):
    """A vector: pgvector's type where PostgreSQL has it, `real[]` where it does not.

    Values travel as `real[]`, which PostgreSQL converts to and from both types, wherever pgvector is installed. What the
    column is compared with is bound as a vector instead: PostgreSQL would convert an array again for every row. A
    `bindparam` there needs `type_=VECTOR`.
    """

    impl = VECTOR
    cache_ok = True

    @override
    def bind_expression(self, bindparam: BindParameter[Sequence[float]]) -> ColumnElement[Sequence[float]]:
        return type_coerce(bindparam, ARRAY(REAL))

    @override
    def column_expression(self, column: ColumnElement[Sequence[float]]) -> ColumnElement[Sequence[float]]:
        return cast(column, ARRAY(REAL))

    @override
    def coerce_compared_value(self, op: OperatorType | None, value: object) -> TypeEngine[Any]:
        return self.impl_instance


class PackedVector(TypeDecorator[Sequence[float]]):
    """A vector as its 32-bit floats, little end first: four bytes for each, which Python reads at once."""

    impl = LargeBinary
    cache_ok = True

    @override
    def process_bind_param(self, value: Sequence[float] | None, dialect: Dialect) -> bytes | None:
        return None if value is None else struct.pack(f"<{len(value)}f", *value)

    @override
    def process_result_value(self, value: bytes | None, dialect: Dialect) -> list[float] | None:
        return None if value is None else list(struct.unpack(f"<{len(value) // 4}f", value))


class ChatSession(SQLModel, table=True):
    """One reader's conversation."""

    __tablename__ = "chat_sessions"
    __table_args__ = (Index("ix_chat_sessions_owner_created_at_id", "owner", "created_at", "id"),)

    id: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)
    created_at: datetime = Field(default_factory=utc_now)
    updated_at: datetime = Field(default_factory=utc_now)
    """When the conversation last moved on."""
    title: str | None = Field(default=None, sa_type=Text)
    owner: str | None = Field(default=None, sa_type=Text)
    """The digest of its reader's token; without one, whoever knows the id may read the session."""


class Source(TypedDict):
    """A passage of the book, as an answer cites it."""

    number: int
    """The `n` of the answer's `[n]`."""
    title: str
    url: str
    snippet: NotRequired[str]
    """The beginning of its text, if the request asked for snippets and the passage has prose."""


def read_sources(stored: Sequence[Mapping[str, Any]] | None) -> list[Source]:
    """Return a message's sources; older rows have their addresses under another name, and no numbers but their order."""
    sources = []
    for place, each in enumerate(stored or (), 1):
        source = Source(number=each.get("number", place), title=each["title"], url=each.get("url") or each["source"])
        if snippet := each.get("snippet"):
            source["snippet"] = snippet
        sources.append(source)
    return sources


class MessageBase(SQLModel):
    """A message's columns; an instance is one that is not written yet."""

    id: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)
    session_id: uuid.UUID = Field(foreign_key="chat_sessions.id", ondelete="CASCADE")
    role: MessageRole = Field(sa_type=Role)
    content: str = Field(sa_type=Text)
    selected_text: str | None = Field(default=None, sa_type=Text)
    """The passage that the reader had marked when asking."""
    created_at: datetime = Field(default_factory=utc_now)

    reply_to: uuid.UUID | None = Field(default=None, foreign_key="messages.id", ondelete="CASCADE", index=True)
    """The question that an answer is to; it goes where its question goes."""
    claim_id: uuid.UUID | None = None
    """The claim of the request that may answer this question."""
    answering_until: datetime | None = None
    """When that claim runs out: until then, a question without a reply is being answered."""
    sources: list[Source] | None = Field(default=None, sa_type=JSON(none_as_null=True))
    """Each passage that the answer cites; read them with `read_sources`."""
    truncated: bool | None = None
    """True if the model was cut off before the answer's end."""
    model: str | None = Field(default=None, sa_type=Text)
    """The model that gave the answer, as its server calls it."""
    service_tier: str | None = Field(default=None, sa_type=Text)
    """The class of service that its server gave it."""
    prompt_tokens: int | None = None
    """How many tokens it was sent in all attempts, None if its server does not count. A question has those of answers that
    failed."""
    completion_tokens: int | None = None
    """How many tokens it gave back, its reasoning included."""
    cached_tokens: int | None = None
    """How many of those that it was sent its server had kept."""
    reasoning_tokens: int | None = None
    """How many of those that it gave back were reasoning."""
    duration_ms: int | None = None
    """How long it took."""
    retrieved: int | None = None
    """How many passages of the book it was sent; None if the book could not be searched, though `cited` is not None."""
    cited: int | None = None
    """How many of them the answer cites."""


TOKEN_COUNTS = ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
"""The columns that say how many tokens an answer took."""

_WHERE_QUESTION: dict[str, Any] = dict.fromkeys(("postgresql_where", "sqlite_where"), text("role = 'user'"))


class Message(MessageBase, table=True):
    """One thing said in a session."""

    __tablename__ = "messages"
    # "The last ten of a session" is one walk down this index; the id decides between equal times.
    # What readers asked, the newest first, is one walk down the other.
    __table_args__ = (
        Index("ix_messages_session_id_created_at_id", "session_id", "created_at", "id"),
        Index("ix_messages_questions", "created_at", "id", **_WHERE_QUESTION),
    )

    feedback: str | None = Field(default=None, sa_type=Text)
    """What the reader thinks of the answer: `positive` or `negative`."""
    feedback_comment: str | None = Field(default=None, sa_type=Text)
    """What the reader says about it."""


class TokenUsage(SQLModel, table=True):
    """How many tokens one process has spent on one day, in UTC."""

    __tablename__ = "token_usage"

    day: date = Field(primary_key=True)
    process: uuid.UUID = Field(primary_key=True)
    """A random id of the process."""
    tokens: int = Field(sa_type=BigInteger)


class Pause(SQLModel, table=True):
    """What the owner has paused the service with; without a row, it answers."""

    __tablename__ = "pauses"

    id: int = Field(sa_type=SmallInteger, primary_key=True)
    """Always 1."""
    message: str | None = Field(default=None, sa_type=Text)
    """What readers are told."""
    began_at: datetime = Field(default_factory=utc_now)


class ToolUsage(SQLModel, table=True):
    """How often readers' assistants have called one tool on one day, in UTC."""

    __tablename__ = "tool_usage"

    day: date = Field(primary_key=True)
    tool: str = Field(sa_type=Text, primary_key=True)
    """`search` or `fetch`."""
    calls: int = Field(sa_type=BigInteger)


class StoredBook(SQLModel, table=True):
    """A book in the database: what was read in under one address, and how much of it there is."""

    __tablename__ = "books"

    id: uuid.UUID = Field(primary_key=True)
    """It follows from the address."""
    address: str = Field(sa_type=Text, unique=True)
    """The address that the book's pages begin with; ends in a slash."""
    title: str | None = Field(default=None, sa_type=Text)
    """What it is called; without a title, as `BOOK_TITLE` says."""
    locale: str | None = Field(default=None, sa_type=Text)
    """Its language."""
    pages: int
    chunks: int
    words: int
    """How many words its chunks have, on PostgreSQL; the full-text search of SQLite counts for itself."""
    counted_at: datetime | None = None
    """`read_at` of the chunks in which words were counted, on PostgreSQL; a release before revision 0014 leaves it as it was."""
    embeddings: list[dict[str, Any]] = Field(sa_type=JSON)
    """How many chunks have an embedding, as `{model, dimensions, chunks}` for each model."""
    read_at: datetime
    """When it was last read in."""


class StoredPage(SQLModel, table=True):
    """A page of a book, as the table of contents needs it."""

    __tablename__ = "book_pages"

    book_id: uuid.UUID = Field(primary_key=True, foreign_key="books.id", ondelete="CASCADE")
    page: str = Field(sa_type=Text, primary_key=True)
    """Its address, as addresses are compared."""
    number: int
    """Its place in the book, from 0."""
    address: str = Field(sa_type=Text)
    title: str = Field(sa_type=Text)
    part: str | None = Field(default=None, sa_type=Text)
    """The title of the part of the book that it belongs to; None if it is a part by itself."""
    headings: list[str] = Field(sa_type=JSON)
    """The paths of the headings below its title, in their order."""


class Document(SQLModel, table=True):
    """A chunk of a book with its embedding, for a retriever to search."""

    __tablename__ = "documents"
    __table_args__ = (Index("ix_documents_book_id_page", "book_id", "page"),)

    id: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)
    source: str = Field(sa_type=Text)
    """Where the chunk stands: a path or an address."""
    title: str = Field(sa_type=Text)
    position: int
    """The chunk's place in its source, from 0."""
    content: str = Field(sa_type=Text)
    embedding: list[float] | None = Field(
        default=None,
        sa_type=Embedding(EMBEDDING_DIMENSIONS).with_variant(PackedVector(), "sqlite"),
    )
    """Its meaning; a model's vector of fewer dimensions is followed by zeros."""
    meta: dict[str, Any] = Field(default_factory=dict, sa_column=Column("metadata", JSON, nullable=False))
    created_at: datetime = Field(default_factory=utc_now)
    book_id: uuid.UUID | None = Field(default=None, foreign_key="books.id", ondelete="CASCADE")
    """The book that it is of; a chunk without one is not searched."""
    page: str | None = Field(default=None, sa_type=Text)
    """The address of its page, as addresses are compared."""


class PaidEmbedding(SQLModel, table=True):
    """An embedding that has been paid for and whose chunk is not stored yet, since the book is not read in to its end."""

    __tablename__ = "embeddings"

    digest: str = Field(sa_type=Text, primary_key=True)
    """The SHA-256 of the embedded text."""
    model: str = Field(sa_type=Text, primary_key=True)
    embedding: list[float] = Field(sa_type=PackedVector)
    """The model's vector as it is, without zeros after it."""


class ApiModel(SQLModel):
    """What crosses the API; a field's docstring is its description in the OpenAPI document."""

    model_config = {"use_attribute_docstrings": True}


def storable(text: str) -> str:
    """Return the text if PostgreSQL and the wire can carry it: JSON can spell two characters that they cannot."""
    if "\x00" in text:
        raise ValueError("must not contain NUL characters")
    if re.search("[\ud800-\udfff]", text):
        raise ValueError("must not contain unpaired surrogates")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


_LONGEST_COMMENT = 2_000


def _comment(text: str) -> str:
    if len(text) > _LONGEST_COMMENT:
        raise ValueError(f"must not be longer than {_LONGEST_COMMENT} characters")
    return storable(text)


def _absent_if_blank(text: str | None) -> str | None:
    return text if text and text.strip() else None


_WEB_ADDRESS = TypeAdapter(HttpUrl)
_LONGEST_ADDRESS = 2_000


def _web_address(text: str | None) -> str | None:
    if text is None:
        return None
    text = text.strip()
    if len(text) > _LONGEST_ADDRESS:
        raise ValueError(f"must not be longer than {_LONGEST_ADDRESS} characters")
    try:
        _WEB_ADDRESS.validate_python(text)
    except ValidationError:
        is_address = False
    else:
        # Browsers understand more than this, such as http:path, and the validator does as they do.
        is_address = text.lower().startswith(("http://", "https://"))
    if not is_address:
        raise ValueError("must be an absolute http or https address")
    return text


_LONGEST_NOTE = 500


def _note(text: str) -> str:
    if len(text) > _LONGEST_NOTE:
        raise ValueError(f"must not be longer than {_LONGEST_NOTE} characters")
    return storable(text)


type Scope = Literal["book", "page"]


class ReaderContext(ApiModel):
    """Where a reader asks, who asks, and what the reader is shown."""

    page_url: Annotated[
        Annotated[str, AfterValidator(storable)] | None, AfterValidator(_absent_if_blank), AfterValidator(_web_address)
    ] = Field(default=None, schema_extra={"examples": [None]})
    """The absolute address of the page that the reader is on, of at most 2,000 characters. Blank counts as absent.

    The answer comes from the book that the page belongs to.
    """
    scope: Scope = Field(default="book", schema_extra={"examples": ["book"]})
    """`page`: the question is about the page at `page_url`, which is then required, and the answer comes from it alone."""
    reader_note: Annotated[Annotated[str, AfterValidator(_note)] | None, AfterValidator(_absent_if_blank)] = Field(
        default=None, schema_extra={"examples": [None]}
    )
    """What the reader says of themselves, such as their language and level, in at most 500 characters. It is not stored.

    Blank counts as absent.
    """
    snippets: bool = Field(default=False, schema_extra={"examples": [False]})
    """Whether each source of the answer is to have a `snippet`, the beginning of its text."""

    @field_validator("scope")
    @classmethod
    def _page_is_named(cls, scope: Scope, info: ValidationInfo) -> Scope:
        if scope == "page" and info.data.get("page_url", "wrong") is None:
            raise ValueError("needs a page_url")
        return scope


class ChatRequest(ReaderContext):
    """A reader's question."""

    message: Annotated[str, AfterValidator(storable), AfterValidator(_not_blank)] = Field(
        schema_extra={"examples": ["What is a humanoid robot?"]}
    )
    """The question itself."""
    session_id: str | None = Field(default=None, schema_extra={"examples": [None]})
    """The session to continue; a new one begins if it is absent or not known."""
    selected_text: Annotated[Annotated[str, AfterValidator(storable)] | None, AfterValidator(_absent_if_blank)] = Field(
        default=None, schema_extra={"examples": [None]}
    )
    """The passage that the reader marked: the answer then comes from it alone. Blank counts as absent."""
    follow_ups: bool = Field(default=False, schema_extra={"examples": [False]})
    """Whether a stream is to end with questions that the reader may ask next."""


class ChatResponse(ApiModel):
    """The recorded answer."""

    response: str
    session_id: uuid.UUID
    timestamp: datetime
    """When the answer was recorded, in UTC."""
    truncated: bool | None = None
    """True if the model was cut off before the answer's end, and absent otherwise."""


class DoneEvent(ChatResponse):
    """The last event of a streamed turn that succeeded."""

    message_id: uuid.UUID
    """The answer's id."""
    sources: list[Source]
    """Each passage that the answer cites."""


def as_done(reply: MessageBase | Row[Any]) -> DoneEvent:
    """Return a recorded reply as the turn's last event."""
    return DoneEvent(
        response=reply.content,
        session_id=reply.session_id,
        timestamp=reply.created_at,
        truncated=reply.truncated or None,
        message_id=reply.id,
        sources=read_sources(reply.sources),
    )


class SessionEvent(ApiModel):
    """The first event of a streamed turn."""

    session_id: uuid.UUID


class DeltaEvent(ApiModel):
    """The next piece of a streamed answer."""

    text: str


class SourcesEvent(ApiModel):
    """The passages that were found, of which the answer may cite some."""

    sources: list[Source]
    unavailable: Literal[True] | None = None
    """True if the book could not be searched: the answer comes without it. Absent otherwise."""


class FollowUpsEvent(ApiModel):
    """Questions that the reader may ask next."""

    questions: list[str]


class Feedback(ApiModel):
    """What a reader thinks of an answer."""

    rating: Literal["positive", "negative"]
    comment: Annotated[Annotated[str, AfterValidator(_comment)] | None, AfterValidator(_absent_if_blank)] = None
    """The reasons in the reader's words, of at most 2,000 characters. Blank counts as absent."""


class MessageItem(ApiModel):
    """A message of a conversation that is read back."""

    id: uuid.UUID
    role: MessageRole
    content: str
    selected_text: str | None
    created_at: datetime
    sources: list[Source] | None = None
    """The passages that the answer cites; absent on questions."""
    feedback: Feedback | None = None
    """What the reader thinks of the answer; absent on questions and on answers that have not been rated."""
    truncated: bool | None = None
    """True if the model was cut off before the answer's end, and absent otherwise."""
    answering: bool | None = None
    """True while the answer to the question is on its way, and absent otherwise."""


type Order = Literal["asc", "desc"]


class PageQuery(ApiModel):
    """Which part of a list is asked for."""

    after: uuid.UUID | None = None
    """The `after` of the page before; without it, the first page."""
    limit: int = Field(default=50, ge=1, le=100)
    """How much the page has at most."""
    order: Order = "asc"
    """`asc`: the oldest first; `desc`: the newest first."""


class SessionItem(ApiModel):
    """A conversation in the list of a reader's own."""

    id: uuid.UUID
    title: str | None
    """Its first question, cut where it is long."""
    created_at: datetime
    updated_at: datetime
    """When its last question was asked."""


class SessionPage(ApiModel):
    """A part of a reader's conversations."""

    data: list[SessionItem]
    has_more: bool
    after: uuid.UUID | None
    """The last conversation's id: send it as `after` to get the next page."""


class ExportedSession(SessionItem):
    """A conversation with all that was said in it."""

    messages: list[MessageItem]


class Export(ApiModel):
    """All that is kept of a reader."""

    sessions: list[ExportedSession]


class MessagePage(ApiModel):
    """A part of a conversation, in which every answer stands beside its question."""

    data: list[MessageItem]
    has_more: bool
    after: uuid.UUID | None
    """The last message's id: send it as `after` to get the next page."""


class HealthResponse(ApiModel):
    """The process is alive."""

    status: Literal["healthy"] = "healthy"


class ReadyResponse(ApiModel):
    """The database answers too."""

    status: Literal["ready"] = "ready"


class ErrorDetail(ApiModel):
    """What is wrong with one field of the request."""

    field: str
    reason: str


class ErrorInfo(ApiModel):
    """What went wrong, for a program (`code`) and for a person (`message`)."""

    code: str
    message: str
    request_id: str
    """Names the request in the service's log."""
    retryable: bool
    """Whether the same request may succeed later."""
    details: list[ErrorDetail] | None = None


class ErrorResponse(ApiModel):
    """The body of every response that is not a success."""

    error: ErrorInfo
