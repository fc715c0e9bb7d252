"""The turn: from a reader's question to the recorded answer."""

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header
from fastapi.exceptions import RequestValidationError
from pydantic import BeforeValidator
from sqlalchemy import Row

from app.broadcast import TurnEvent
from app.config import Settings
from app.conversations import (
    Conversation,
    find_conversation,
    is_answered,
    new_conversation,
    record_question,
    record_reply,
    time_after,
)
from app.database import Database
from app.dependencies import ReaderToken, RetrieverDep, StateRequest, TurnsDep, owner_of
from app.errors import (
    ERROR_RESPONSES,
    DuplicateKeyError,
    RateLimitedError,
    SessionNotFoundError,
    TurnInProgressError,
)
from app.idempotency import claim_question, turn_ids
from app.llm import LanguageModel
from app.logs import current_request, keep_out_of_log
from app.models import ChatRequest, ChatResponse, DeltaEvent, MessageBase, MessageRole, Source, SourcesEvent
from app.prompt import PastTurn, assemble_prompt
from app.ratelimit import Allowance
from app.retrieval import Retriever, look_up

router = APIRouter(tags=["chat"])

type Emit = Callable[[TurnEvent], None]

IdempotencyKey = Annotated[
    uuid.UUID | None,
    Header(
        description="A UUID that the client makes up. A repeated request with the same key gets the recorded answer "
        "instead of a second one, even after a lost connection."
    ),
    # In the IETF draft the key is a structured field's string, which has quotes.
    BeforeValidator(lambda value: value.strip('"') if isinstance(value, str) else value),
]

CLAIM_MARGIN_SECONDS = 10.0
"""How much longer than the model's deadline a claim lasts: the time for retrieval and the database."""


@dataclass(frozen=True)
class Turn:
    """A question, and what it takes to answer it."""

    request: ChatRequest
    idempotency_key: uuid.UUID | None
    owner: str | None
    """The digest of the reader's token."""
    count: Allowance
    db: Database
    model: LanguageModel
    retriever: Retriever
    settings: Settings


async def get_turn(
    request: StateRequest,
    question: ChatRequest,
    retriever: RetrieverDep,
    idempotency_key: IdempotencyKey = None,
    reader_token: ReaderToken = None,
) -> Turn:
    """Return the turn that the request asks for."""
    return await new_turn(request, question, retriever, owner_of(reader_token), idempotency_key)


async def new_turn(
    request: StateRequest,
    question: ChatRequest,
    retriever: Retriever,
    owner: str | None,
    idempotency_key: uuid.UUID | None = None,
) -> Turn:
    """Return a turn; raises RequestValidationError if a text is longer than the settings allow.

    Raises RateLimitedError if the reader has no question left, except for one that has been answered already.
    """
    state = request.state
    settings, db = state["settings"], state["database"]
    limits = {"message": settings.max_message_chars, "selected_text": settings.max_selected_text_chars}
    too_long = [
        {"loc": ("body", name), "msg": f"must not be longer than {limit} characters"}
        for name, limit in limits.items()
        if len(getattr(question, name) or "") > limit
    ]
    if too_long:
        raise RequestValidationError(too_long)
    try:
        count = await state["limiter"].allowance(request)
    except RateLimitedError as error:
        if idempotency_key is None or not await is_answered(db, turn_ids(question, owner, idempotency_key).question):
            raise
        count = partial(_refuse, error)
    return Turn(
        request=question,
        idempotency_key=idempotency_key,
        owner=owner,
        count=count,
        db=db,
        model=state["model"],
        retriever=retriever,
        settings=settings,
    )


async def _refuse(error: RateLimitedError) -> None:
    raise error


TurnDep = Annotated[Turn, Depends(get_turn)]


@router.post("/chat", responses=ERROR_RESPONSES)
async def chat(turn: TurnDep, turns: TurnsDep) -> ChatResponse:
    """Answer a question about the book.

    Without a `session_id` a new session begins, and the response names it. With one, the answer takes the session's last
    messages into account. With a `selected_text` the answer comes from that text alone.
    """
    return await turns.run(take_turn(turn))


async def take_turn(turn: Turn, emit: Emit | None = None, *, may_begin_session: bool = True) -> ChatResponse:
    """Answer the question and record both; with `emit`, tell of the recorded question and of each piece of the answer.

    When this returns, the answer is in the database. When it raises a ModelError, the question is; when it raises a
    DatabaseError, either may be missing. No connection is held while the model thinks. With an idempotency key, a recorded
    answer is returned as it is; IdempotencyConflictError and TurnInProgressError say why there is none to return.
    """
    keep_out_of_log(turn.request.message, turn.request.selected_text)
    ids = turn_ids(turn.request, turn.owner, turn.idempotency_key)

    history_limit = 0 if turn.request.selected_text else turn.settings.history_limit
    conversation = await find_conversation(
        turn.db, turn.request.session_id, owner=turn.owner, history_limit=history_limit
    )
    if conversation is None:
        if not may_begin_session:
            raise SessionNotFoundError
        conversation = new_conversation(ids.new_session, owner=turn.owner, first_message=turn.request.message)
    current_request().session_id = conversation.session_id

    question = MessageBase(
        id=ids.question,
        session_id=conversation.session_id,
        role=MessageRole.user,
        content=turn.request.message,
        selected_text=turn.request.selected_text,
        created_at=time_after(conversation.last_message_at),
    )
    if turn.idempotency_key is None:
        return await _answer(turn, question, conversation, emit, is_recorded=False)

    claim_seconds = turn.settings.openai_timeout_seconds + CLAIM_MARGIN_SECONDS
    async with claim_question(turn.db, question, conversation, seconds=claim_seconds) as claim:
        if claim.recorded_reply is None:
            return await _answer(turn, question, conversation, emit, is_recorded=True)
        if emit:
            emit(question)
            emit(DeltaEvent(text=claim.recorded_reply.content))
        return as_response(claim.recorded_reply)


async def _answer(
    turn: Turn, question: MessageBase, conversation: Conversation, emit: Emit | None, *, is_recorded: bool
) -> ChatResponse:
    """Ask the model, and record its reply; a question that is not recorded yet is recorded while the model thinks."""
    await turn.count()
    asking = asyncio.create_task(ask_model(turn, conversation.history, emit))
    try:
        if not is_recorded:
            # A duplicate is our own first try, which arrived before its connection was lost.
            with contextlib.suppress(DuplicateKeyError):
                await record_question(turn.db, question, conversation)
        if emit:
            emit(question)
        answer = await asking
    except BaseException:
        # If recording failed, stop the model. If the model failed, the question is already recorded.
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        raise
    reply = await record_reply(turn.db, question, answer.text, answer.sources)
    if emit and (reply.content, reply.session_id) != (answer.text, question.session_id):
        # Another request answered the question meanwhile: what was told here is not what is recorded.
        raise TurnInProgressError(retry_after="1")
    return as_response(reply)


@dataclass(frozen=True)
class Answer:
    """What the model said, and the sources that it could rely on."""

    text: str
    sources: Sequence[Source]


async def ask_model(turn: Turn, history: Sequence[PastTurn], emit: Emit | None) -> Answer:
    """Return the model's answer: from the excerpt alone, or from the history and the passages that were found."""
    excerpt = turn.request.selected_text
    passages = () if excerpt else await look_up(turn.retriever, turn.request.message)
    sources = [Source(source=passage.source, title=passage.title) for passage in passages]
    if sources and emit:
        emit(SourcesEvent(sources=sources))
    prompt = assemble_prompt(
        turn.request.message,
        book_title=turn.settings.book_title,
        excerpt=excerpt,
        passages=passages,
        history=history,
    )
    text = await turn.model.answer(prompt, emit and (lambda piece: emit(DeltaEvent(text=piece))))
    return Answer(text, sources)


def as_response(reply: MessageBase | Row[Any]) -> ChatResponse:
    """Return a recorded reply as the client gets it."""
    return ChatResponse(response=reply.content, session_id=reply.session_id, timestamp=reply.created_at)
