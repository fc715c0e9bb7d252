"""ChatKit's protocol, in the types of its official package, on the tables and the turn of `POST /chat`.

A thread is a session, an item is a message. The package's own server is not used: it would write the items itself,
beside the turn. See docs/decisions/0008.
"""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
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
    FileSource,
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
from sqlalchemy import Row, delete, select, update
from sqlmodel import col
from starlette.requests import ClientDisconnect

from app.chat import Emit, Retrieved, Turn, reply_id, require_within_limits, retake_turn, take_turn
from app.dependencies import StateRequest, within_rate
from app.errors import SessionNotFoundError, UnsupportedRequestError, render
from app.history import load_page, parse_id, parse_session_id
from app.models import ChatRequest, ChatResponse, ChatSession, DeltaEvent, Message, MessageBase, MessageRole, storable
from app.retrieval import Retriever
from app.stream import Events, EventStream, begin, following, until_recorded

PAGE_SIZE, LARGEST_PAGE = 20, 100
_TITLE_CHARS = 80

_REQUEST: TypeAdapter[ChatKitReq] = TypeAdapter(ChatKitReq)
_TITLE: TypeAdapter[str] = TypeAdapter(
    Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(storable)]
)


async def respond(request: StateRequest, retrieve: Retriever, token: str | None) -> Response:
    """Return the answer to a request of the widget; raises ChatError, and RequestValidationError for a bad body."""
    try:
        body = await request.body()
    except ClientDisconnect:
        raise HTTPException(400) from None
    try:
        asked = _REQUEST.validate_json(body if _is_json(request) else b"")
    except ValidationError as error:
        raise _invalid(error) from None
    reader = _Reader(request, retrieve, hashlib.sha256(token.encode()).hexdigest() if token else None)
    match asked:
        case ThreadsCreateReq():
            return await reader.ask(asked.params.input, None)
        case ThreadsAddUserMessageReq():
            return await reader.ask(asked.params.input, asked.params.thread_id)
        case ThreadsRetryAfterItemReq():
            return await reader.ask_again(asked.params.thread_id, asked.params.item_id)
        case _ if is_streaming_req(asked):
            return EventStream(_frames(_refusal()))
    answer = await _answer(reader, asked)
    return Response(_json(answer) if answer else b"{}", media_type="application/json")


async def _answer(reader: "_Reader", asked: ChatKitReq) -> BaseModel | None:
    """Return the answer to a request that begins no turn."""
    answer: BaseModel | None = None
    match asked:
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
    retrieve: Retriever
    owner: str | None

    async def ask(self, given: UserMessageInput, thread_id: str | None) -> Response:
        """Begin a turn, in a new thread or in this one."""
        if given.attachments or given.inference_options.tool_choice:
            return EventStream(_frames(_refusal()))
        thread = await self._find(thread_id) if thread_id is not None else None
        try:
            question = ChatRequest(
                message="".join(part.text for part in given.content),
                session_id=thread.id if thread else None,
                selected_text=given.quoted_text,
            )
        except ValidationError as error:
            raise _invalid(error) from None
        require_within_limits(question, self.request.state["settings"])
        title = _shortened(question.message)
        turn = self._turn(question, title)
        return await self._stream(lambda emit: take_turn(turn, emit=emit), new_title=None if thread else title)

    async def ask_again(self, thread_id: str, item_id: str) -> Response:
        """Begin a turn that answers a recorded question anew."""
        thread = await self._find(thread_id)
        chosen = col(Message.session_id) == uuid.UUID(thread.id), col(Message.id) == parse_id(item_id)
        rows = await self._execute(select(Message).where(*chosen, col(Message.role) == MessageRole.user))
        if not rows:
            raise SessionNotFoundError
        asked = MessageBase.model_validate(rows[0], from_attributes=True)
        question = ChatRequest(message=asked.content, session_id=thread.id, selected_text=asked.selected_text)
        turn = self._turn(question)
        return await self._stream(lambda emit: retake_turn(turn, asked, emit=emit), is_new_item=False)

    async def threads(self, after: str | None, limit: int | None, order: str) -> Page[Thread]:
        """Return the reader's own threads, without their items."""
        if self.owner is None:
            return Page()
        own = col(ChatSession.owner) == self.owner
        rows, has_more = await self._page(ChatSession, own, after, limit, order)
        return Page(data=[_thread(row) for row in rows], has_more=has_more, after=_last_id(rows) if has_more else None)

    async def thread(self, thread_id: str) -> Thread:
        """Return a thread with its first items."""
        thread = await self._find(thread_id)
        thread.items = await self._items(thread.id, None, None, "asc")
        return thread

    async def rename(self, thread_id: str, title: str) -> Thread:
        """Give a thread another title."""
        try:
            title = _TITLE.validate_python(title)
        except ValidationError as error:
            raise _invalid(error, "title") from None
        thread = await self._find(thread_id)
        renamed = update(ChatSession).where(col(ChatSession.id) == uuid.UUID(thread.id))
        # The title is no part of the conversation, which does not move on with it.
        await self._execute(renamed.values(title=title, updated_at=col(ChatSession.updated_at)))
        thread.title = title
        return thread

    async def delete(self, thread_id: str) -> None:
        """Delete a thread with its items."""
        thread = await self._find(thread_id)
        await self._execute(delete(ChatSession).where(col(ChatSession.id) == uuid.UUID(thread.id)))

    async def items(self, thread_id: str, after: str | None, limit: int | None, order: str) -> Page[ThreadItem]:
        """Return a page of a thread's items."""
        thread = await self._find(thread_id)
        return await self._items(thread.id, after, limit, order)

    async def rate(self, thread_id: str, item_ids: Sequence[str], kind: str) -> None:
        """Record what the reader thinks of these items."""
        thread = await self._find(thread_id)
        rated = update(Message).where(
            col(Message.session_id) == uuid.UUID(thread.id), col(Message.id).in_([parse_id(item) for item in item_ids])
        )
        await self._execute(rated.values(feedback=kind))

    async def _find(self, thread_id: str) -> Thread:
        """Return a thread, without its items; raises SessionNotFoundError if there is none or it is a stranger's."""
        known_id = parse_session_id(thread_id)
        rows = await self._execute(select(ChatSession).where(col(ChatSession.id) == known_id))
        if not rows or rows[0].owner not in {None, self.owner}:
            raise SessionNotFoundError
        return _thread(rows[0])

    async def _items(self, thread_id: str, after: str | None, limit: int | None, order: str) -> Page[ThreadItem]:
        of_thread = col(Message.session_id) == uuid.UUID(thread_id)
        rows, has_more = await self._page(Message, of_thread, after, limit, order)
        return Page(data=[_item(row) for row in rows], has_more=has_more, after=_last_id(rows) if has_more else None)

    async def _page(
        self, table: type[ChatSession | Message], where: Any, after: str | None, limit: int | None, order: str
    ) -> tuple[Sequence[Row[Any]], bool]:
        size = min(max(limit or PAGE_SIZE, 1), LARGEST_PAGE)
        cursor = None if after is None else _cursor(after)
        db = self.request.state["database"]
        return await load_page(db, table, where, after=cursor, limit=size, newest_first=order == "desc")

    async def _execute(self, statement: Any) -> Sequence[Row[Any]]:
        return await self.request.state["database"].execute((statement, {}))

    def _turn(self, question: ChatRequest, title: str | None = None) -> Turn:
        state = self.request.state
        return Turn(
            question,
            idempotency_key=None,
            db=state["database"],
            model=state["model"],
            retrieve=self.retrieve,
            settings=state["settings"],
            owner=self.owner,
            title=title,
            session_must_exist=question.session_id is not None,
        )

    async def _stream(
        self,
        take: Callable[[Emit], Coroutine[Any, Any, ChatResponse]],
        *,
        new_title: str | None = None,
        is_new_item: bool = True,
    ) -> Response:
        await within_rate(self.request)
        answering, events = begin(self.request.state["turns"], take)
        return EventStream(_frames(_turn_events(answering, events, new_title, is_new_item=is_new_item)))


async def _turn_events(
    answering: asyncio.Task[ChatResponse], events: Events, new_title: str | None, *, is_new_item: bool
) -> AsyncIterator[ThreadStreamEvent | bytes]:
    """Yield what the widget shows of a turn; what fails before the question is recorded is raised."""
    asked, early = await until_recorded(answering, events)
    thread_id = str(asked.session_id)
    if new_title is not None:
        yield ThreadCreatedEvent(
            thread=Thread(id=thread_id, title=new_title, created_at=asked.created_at, items=Page())
        )
    if is_new_item:
        yield ThreadItemDoneEvent(item=_item(asked))
    yield StreamOptionsEvent(stream_options=StreamOptions(allow_cancel=True))

    answer = AssistantMessageItem(
        id=str(reply_id(asked.id)), thread_id=thread_id, created_at=asked.created_at, content=[]
    )
    content = AssistantMessageContent(text="")
    yield ThreadItemAddedEvent(item=answer)
    yield _updated(answer, AssistantMessageContentPartAdded(content_index=0, content=content))
    async for told in _chain(early, following(events)):
        if isinstance(told, bytes):
            yield told
        elif isinstance(told, DeltaEvent):
            yield _updated(answer, AssistantMessageContentPartTextDelta(content_index=0, delta=told.text))
        elif isinstance(told, Retrieved):
            content.annotations = _annotations(told.sources)
            for index, annotation in enumerate(content.annotations):
                yield _updated(answer, _added(index, annotation))
    if error := answering.exception():
        body, status, _ = render(error)
        yield ErrorEvent(message=body.error.message, allow_retry=status != SessionNotFoundError.status)
        return
    recorded = answering.result()
    content.text = recorded.response
    answer.content, answer.created_at = [content], recorded.timestamp
    yield _updated(answer, AssistantMessageContentPartDone(content_index=0, content=content))
    yield ThreadItemDoneEvent(item=answer)


async def _chain[T, U](first: Sequence[T], then: AsyncIterator[U]) -> AsyncIterator[T | U]:
    for item in first:
        yield item
    async for following_item in then:
        yield following_item


async def _frames(events: AsyncIterator[ThreadStreamEvent | bytes]) -> AsyncIterator[bytes]:
    async for event in events:
        yield event if isinstance(event, bytes) else format_sse_event(data_str=_json(event))


async def _refusal() -> AsyncIterator[ThreadStreamEvent]:
    yield ErrorEvent(message=UnsupportedRequestError.message, allow_retry=False)


def _added(index: int, annotation: Annotation) -> AssistantMessageContentPartAnnotationAdded:
    return AssistantMessageContentPartAnnotationAdded(content_index=0, annotation_index=index, annotation=annotation)


def _updated(item: AssistantMessageItem, update: Any) -> ThreadItemUpdatedEvent:
    return ThreadItemUpdatedEvent(item_id=item.id, update=update)


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
    answer = AssistantMessageContent(text=message.content, annotations=_annotations(message.sources or ()))
    return AssistantMessageItem(**where, content=[answer])


def _annotations(sources: Sequence[Mapping[str, str]]) -> list[Annotation]:
    return [
        Annotation(
            source=URLSource(title=found["title"], url=found["source"])
            if found["source"].startswith(("http://", "https://"))
            else FileSource(title=found["title"], filename=found["source"])
        )
        for found in sources
    ]


def _shortened(text: str) -> str:
    """Return a title: the text on one line, cut where it is long; not every language has words to cut between."""
    line = " ".join(text.split())
    return line if len(line) <= _TITLE_CHARS else f"{line[: _TITLE_CHARS - 1]}…"


def _last_id(rows: Sequence[Row[Any]]) -> str:
    return str(rows[-1].id)


def _cursor(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise RequestValidationError([{"loc": ("body", "after"), "msg": "is not the `after` of a page"}]) from None


def _json(model: BaseModel) -> str:
    return model.model_dump_json(by_alias=True, exclude_none=True)


def _is_json(request: StateRequest) -> bool:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json"


def _invalid(error: ValidationError, *place: str) -> RequestValidationError:
    """Return what the handler of invalid requests takes, without the input, also where it has keys of the client's own."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return RequestValidationError([{**detail, "loc": ("body", *place, *detail["loc"][:4])} for detail in details])
