"""ChatKit's protocol, in the types of its official package, on the tables and the turn of `POST /chat`.

A thread is a session, an item is a message. The package's own server is not used: it would write the items itself,
beside the turn. See docs/decisions/0008.
"""

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import Annotated, Any

from chatkit.types import (
    Annotation,
    AssistantMessageContent,
    AssistantMessageContentPartAdded,
    AssistantMessageContentPartAnnotationAdded,
    AssistantMessageContentPartDone,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    ChatKitReq,
    ErrorEvent,
    InferenceOptions,
    ItemsFeedbackReq,
    ItemsListReq,
    Page,
    StreamOptions,
    StreamOptionsEvent,
    Thread,
    ThreadCreatedEvent,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemUpdatedEvent,
    ThreadsAddUserMessageReq,
    ThreadsCreateReq,
    ThreadsDeleteReq,
    ThreadsGetByIdReq,
    ThreadsListReq,
    ThreadsRetryAfterItemReq,
    ThreadStreamEvent,
    ThreadsUpdateReq,
    URLSource,
    UserMessageInput,
    UserMessageItem,
    UserMessageTextContent,
    is_streaming_req,
)
from fastapi import HTTPException, Response
from fastapi.exceptions import RequestValidationError
from fastapi.sse import format_sse_event
from pydantic import AfterValidator, BaseModel, StringConstraints, TypeAdapter, ValidationError
from sqlalchemy import Row, delete, update
from sqlmodel import col
from starlette.requests import ClientDisconnect

from app.broadcast import Broadcast, TurnEvent
from app.chat import new_turn, take_turn
from app.citations import marker_ends
from app.conversations import rate_messages, reply_id, title_of
from app.database import Database
from app.dependencies import StateRequest
from app.errors import (
    ChatError,
    OverloadedError,
    UnsupportedRequestError,
    log,
    render,
)
from app.history import find_session, load_messages, load_sessions
from app.models import (
    ChatRequest,
    ChatSession,
    DeltaEvent,
    DoneEvent,
    FollowUpsEvent,
    MessageBase,
    MessageRole,
    Order,
    ReaderContext,
    Source,
    SourcesEvent,
    read_sources,
    storable,
    utc_now,
)
from app.regeneration import new_regeneration
from app.retrieval import Retriever
from app.stream import EventStream, Take, begin_turn

PAGE_SIZE, LARGEST_PAGE = 20, 100

type _Metadata = Mapping[str, Any]
"""What a site adds to ChatKit's requests."""

_REQUEST: TypeAdapter[ChatKitReq] = TypeAdapter(ChatKitReq)
_TITLE: TypeAdapter[str] = TypeAdapter(
    Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(storable)]
)


async def respond(request: StateRequest, retriever: Retriever, owner: str | None) -> Response:
    """Return the answer to a request of the widget; raises ChatError, and RequestValidationError for a bad body."""
    try:
        body = await request.body()
    except ClientDisconnect:
        raise HTTPException(400) from None
    try:
        parsed = _REQUEST.validate_json(body if _is_json(request) else b"")
    except ValidationError as error:
        raise _invalid(error) from None
    reader = _Reader(request, retriever, owner)
    if not is_streaming_req(parsed):
        answer = await _answer(reader, parsed)
        return Response(_json(answer) if answer else b"{}", media_type="application/json")
    try:
        return await _begin_stream(reader, parsed)
    except OverloadedError:
        raise  # The widget sends the request again by itself.
    except (ChatError, RequestValidationError) as error:
        # Of a response with an error's status, the widget would show the name of the status only.
        if isinstance(error, ChatError):
            log(error)
        return _stream(_single(_error_event(error)))


async def _begin_stream(reader: "_Reader", parsed: ChatKitReq) -> Response:
    match parsed:
        case ThreadsCreateReq(params=params):
            return await reader.begin_thread(params.input, parsed.metadata)
        case ThreadsAddUserMessageReq(params=params):
            return await reader.continue_thread(params.thread_id, params.input, parsed.metadata)
        case ThreadsRetryAfterItemReq(params=params):
            return await reader.regenerate(params.thread_id, params.item_id, parsed.metadata)
        case _:
            raise UnsupportedRequestError


async def _answer(reader: "_Reader", parsed: ChatKitReq) -> BaseModel | None:
    """Return the answer to a request that begins no turn."""
    answer: BaseModel | None = None
    match parsed:
        case ThreadsListReq(params=page):
            answer = await reader.threads(page.after, page.limit, page.order)
        case ThreadsGetByIdReq(params=params):
            answer = await reader.thread(params.thread_id)
        case ThreadsUpdateReq(params=params):
            answer = await reader.rename(params.thread_id, params.title)
        case ThreadsDeleteReq(params=params):
            await reader.delete(params.thread_id)
        case ItemsListReq(params=page):
            answer = await reader.items(page.thread_id, page.after, page.limit, page.order)
        case ItemsFeedbackReq(params=params):
            await reader.rate(params.thread_id, params.item_ids, params.kind)
        case _:
            raise UnsupportedRequestError
    return answer


@dataclass(frozen=True)
class _Reader:
    """Who asks, and what of theirs the tables hold."""

    request: StateRequest
    retriever: Retriever
    owner: str | None

    @property
    def _db(self) -> Database:
        return self.request.state["database"]

    async def begin_thread(self, given: UserMessageInput, metadata: _Metadata) -> Response:
        """Begin a turn in a new thread."""
        turn = await new_turn(self.request, _question(given, metadata), self.retriever, self.owner)
        return self._stream(partial(take_turn, turn), shown=_Shown.thread)

    async def continue_thread(self, thread_id: str, given: UserMessageInput, metadata: _Metadata) -> Response:
        """Begin a turn in this thread."""
        turn = await new_turn(self.request, _question(given, metadata, thread_id), self.retriever, self.owner)
        return self._stream(partial(take_turn, turn, may_begin_session=False), shown=_Shown.question)

    async def regenerate(self, thread_id: str, item_id: str, metadata: _Metadata) -> Response:
        """Begin a turn that answers a recorded question anew."""
        try:
            context = ReaderContext.model_validate(_ours(metadata))
        except ValidationError as error:
            raise _invalid(error) from None
        regeneration = await new_regeneration(self.request, thread_id, item_id, self.retriever, self.owner, context)
        return self._stream(regeneration.take, shown=_Shown.answer)

    async def threads(self, after: str | None, limit: int | None, order: Order) -> Page[Thread]:
        """Return the reader's own threads, without their items."""
        if self.owner is None:
            return Page()
        rows, has_more = await load_sessions(
            self._db, self.owner, after=_cursor(after), limit=_size(limit), order=order
        )
        return Page(data=[_thread(row) for row in rows], has_more=has_more, after=_last_id(rows) if has_more else None)

    async def thread(self, thread_id: str) -> Thread:
        """Return a thread with its first items."""
        session = await self._find(thread_id)
        thread = _thread(session)
        thread.items = await self._items(session.id, None, None, "asc")
        return thread

    async def rename(self, thread_id: str, title: str) -> Thread:
        """Give a thread another title."""
        try:
            title = _TITLE.validate_python(title)
        except ValidationError as error:
            raise _invalid(error, "title") from None
        session = await self._find(thread_id)
        await self._execute(update(ChatSession).where(col(ChatSession.id) == session.id).values(title=title))
        thread = _thread(session)
        thread.title = title
        return thread

    async def delete(self, thread_id: str) -> None:
        """Delete a thread with its items."""
        session = await self._find(thread_id)
        await self._execute(delete(ChatSession).where(col(ChatSession.id) == session.id))

    async def items(self, thread_id: str, after: str | None, limit: int | None, order: Order) -> Page[ThreadItem]:
        """Return a page of a thread's items."""
        session = await self._find(thread_id)
        return await self._items(session.id, after, limit, order)

    async def rate(self, thread_id: str, item_ids: Sequence[str], kind: str) -> None:
        """Record what the reader thinks of these items; ids that are malformed or of another thread are passed over."""
        if len(item_ids) > LARGEST_PAGE:
            too_many = {"loc": ("body", "params", "item_ids"), "msg": f"must not be more than {LARGEST_PAGE} ids"}
            raise RequestValidationError([too_many])
        session = await self._find(thread_id)
        ids = {uuid.UUID(item_id) for item_id in item_ids if _is_uuid(item_id)}
        await rate_messages(self._db, session.id, ids, kind)

    async def _find(self, thread_id: str) -> Row[Any]:
        return await find_session(self._db, thread_id, self.owner)

    async def _items(
        self, session_id: uuid.UUID, after: str | None, limit: int | None, order: Order
    ) -> Page[ThreadItem]:
        rows, has_more = await load_messages(
            self._db, session_id, after=_cursor(after), limit=_size(limit), order=order
        )
        return Page(data=[_item(row) for row in rows], has_more=has_more, after=_last_id(rows) if has_more else None)

    async def _execute(self, statement: Any) -> Sequence[Row[Any]]:
        return await self._db.execute((statement, {}))

    def _stream(self, take: Take, *, shown: "_Shown") -> Response:
        broadcast = Broadcast()
        begin_turn(self.request.state["turns"], take, broadcast)
        return _stream(_turn_frames(broadcast.follow(), shown))


def _ours(metadata: _Metadata) -> _Metadata:
    """Return what the page says of its reader; whatever else a site puts there is its own."""
    return {name: metadata[name] for name in ReaderContext.model_fields if name in metadata}


def _question(given: UserMessageInput, metadata: _Metadata, thread_id: str | None = None) -> ChatRequest:
    if given.attachments or given.inference_options.tool_choice:
        raise UnsupportedRequestError
    try:
        return ChatRequest.model_validate(
            {
                **_ours(metadata),
                "message": "".join(part.text for part in given.content),
                "session_id": thread_id,
                "selected_text": given.quoted_text,
            }
        )
    except ValidationError as error:
        raise _invalid(error) from None


class _AnswerItem(AssistantMessageItem):
    """An answer, which can have been cut off; the widget passes over what it does not know."""

    truncated: bool | None = None


class _Shown(IntEnum):
    """What of a turn is new to the widget; each includes those before."""

    answer = 0
    question = 1
    thread = 2


class _TurnView:
    """What the widget shows of a turn, event by event."""

    def __init__(self, shown: _Shown) -> None:
        self._shown = shown
        self._answer = _AnswerItem(id="", thread_id="", created_at=utc_now(), content=[])

    def events(self, told: TurnEvent | DoneEvent) -> Iterator[ThreadStreamEvent]:
        """Yield the widget's events for what the turn has told."""
        match told:
            case MessageBase():
                yield from self._begin(told)
            case SourcesEvent() | FollowUpsEvent():
                pass  # Which sources the answer cites, its end says; and nobody asks for follow-up questions.
            case DeltaEvent():
                yield self._updated(AssistantMessageContentPartTextDelta(content_index=0, delta=told.text))
            case DoneEvent():
                yield from self._end(told)

    def _begin(self, question: MessageBase) -> Iterator[ThreadStreamEvent]:
        thread_id, time = str(question.session_id), question.created_at
        if self._shown >= _Shown.thread:
            yield ThreadCreatedEvent(
                thread=Thread(id=thread_id, title=title_of(question.content), created_at=time, items=Page())
            )
        if self._shown >= _Shown.question:
            yield ThreadItemDoneEvent(item=_item(question))
        yield StreamOptionsEvent(stream_options=StreamOptions(allow_cancel=True))
        self._answer.id, self._answer.thread_id = str(reply_id(question.id)), thread_id
        self._answer.created_at = time
        yield ThreadItemAddedEvent(item=self._answer)
        empty = AssistantMessageContent(text="")
        yield self._updated(AssistantMessageContentPartAdded(content_index=0, content=empty))

    def _end(self, done: DoneEvent) -> Iterator[ThreadStreamEvent]:
        content = _answer_content(done.response, done.sources)
        for index, annotation in enumerate(content.annotations):
            yield self._updated(
                AssistantMessageContentPartAnnotationAdded(
                    content_index=0, annotation_index=index, annotation=annotation
                )
            )
        self._answer.content, self._answer.created_at = [content], done.timestamp
        self._answer.truncated = done.truncated
        yield self._updated(AssistantMessageContentPartDone(content_index=0, content=content))
        yield ThreadItemDoneEvent(item=self._answer)

    def _updated(self, update: Any) -> ThreadItemUpdatedEvent:
        return ThreadItemUpdatedEvent(item_id=self._answer.id, update=update)


async def _turn_frames(batches: AsyncIterator[Sequence[TurnEvent | DoneEvent]], shown: _Shown) -> AsyncGenerator[bytes]:
    view = _TurnView(shown)
    async for told in batches:
        yield b"".join(_frame(event) for each in told for event in view.events(each))


def _stream(frames: AsyncGenerator[bytes]) -> EventStream:
    # Ended by a blank line, a comment would be an empty event to the widget.
    return EventStream(
        frames,
        error_frame=lambda error: _frame(_error_event(error)),
        comment=b": ping\n",
        has_error_statuses=False,
    )


def _error_event(error: Exception) -> ErrorEvent:
    """Return the event that tells of an error in words, and whether asking again can help."""
    if isinstance(error, RequestValidationError):
        faults = [
            f"The {str(e['loc'][-1]).replace('_', ' ')} {e['msg'].removeprefix('Value error, ')}."
            for e in error.errors()
        ]
        return ErrorEvent(message=" ".join(faults), allow_retry=False)
    body, _, _ = render(error)
    return ErrorEvent(message=body.error.message, allow_retry=body.error.retryable)


async def _single(event: ThreadStreamEvent) -> AsyncGenerator[bytes]:
    yield _frame(event)


def _frame(event: ThreadStreamEvent) -> bytes:
    return format_sse_event(data_str=_json(event))


def _thread(row: Row[Any]) -> Thread:
    return Thread(id=str(row.id), title=row.title, created_at=row.created_at, items=Page())


def _item(message: MessageBase | Row[Any]) -> UserMessageItem | AssistantMessageItem:
    where: dict[str, Any] = {
        "id": str(message.id),
        "thread_id": str(message.session_id),
        "created_at": message.created_at,
    }
    if message.role is MessageRole.user:
        text = UserMessageTextContent(text=message.content)
        return UserMessageItem(
            **where, content=[text], quoted_text=message.selected_text, inference_options=InferenceOptions()
        )
    content = _answer_content(message.content, read_sources(message.sources))
    return _AnswerItem(**where, content=[content], truncated=message.truncated or None)


def _answer_content(text: str, sources: Sequence[Source]) -> AssistantMessageContent:
    """Return an answer with its sources, each at the end of its first marker; the widget can link to absolute addresses only."""
    ends = marker_ends(text) if sources else {}
    return AssistantMessageContent(
        text=text,
        annotations=[
            Annotation(source=URLSource(title=cited["title"], url=cited["url"]), index=ends.get(cited["number"]))
            for cited in sources
            if cited["url"].startswith(("http://", "https://"))
        ],
    )


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _last_id(rows: Sequence[Row[Any]]) -> str:
    return str(rows[-1].id)


def _size(limit: int | None) -> int:
    return min(max(limit or PAGE_SIZE, 1), LARGEST_PAGE)


def _cursor(after: str | None) -> uuid.UUID | None:
    try:
        return None if after is None else uuid.UUID(after)
    except ValueError:
        raise RequestValidationError([{"loc": ("body", "after"), "msg": "is not the `after` of a page"}]) from None


def _json(model: BaseModel) -> str:
    return model.model_dump_json(by_alias=True, exclude_none=True, serialize_as_any=True)


def _is_json(request: StateRequest) -> bool:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json"


def _invalid(error: ValidationError, *place: str) -> RequestValidationError:
    """Return what the handler of invalid requests takes, without the input, also where it has keys of the client's own."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return RequestValidationError([{**detail, "loc": ("body", *place, *detail["loc"][:4])} for detail in details])
