"""The turn: from a reader's question to the recorded answer."""

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header
from pydantic import BeforeValidator
from sqlalchemy import Row

from app.admission import admit
from app.broadcast import Identity, TurnEvent
from app.citations import cite
from app.config import Settings
from app.conversations import (
    Answer,
    Conversation,
    find_conversation,
    new_conversation,
    record_question,
    record_reply,
    time_after,
)
from app.database import Database
from app.dependencies import ReaderToken, RetrieverDep, StateRequest, TurnsDep, owner_of
from app.errors import (
    ERROR_RESPONSES,
    DatabaseError,
    DuplicateKeyError,
    ModelError,
    SessionNotFoundError,
    TurnInProgressError,
)
from app.followups import Telling
from app.idempotency import claim_question, give_up, identity_of, mark_as_claimed, new_session_id, question_id
from app.llm import LanguageModel
from app.logs import current_request, keep_out_of_log
from app.models import (
    ChatRequest,
    ChatResponse,
    DeltaEvent,
    DoneEvent,
    MessageBase,
    MessageRole,
    Source,
    SourcesEvent,
    as_done,
)
from app.prompt import Background, PastTurn, PromptMessage, assemble_prompt
from app.ratelimit import Allowance
from app.retrieval import Passage, Retrieval, RetrievalWatch, Retriever, retrieve_nothing
from app.snippets import snippet_of
from app.turns import deadline

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


@dataclass(frozen=True)
class Turn:
    """A question, and what it takes to answer it."""

    request: ChatRequest
    idempotency_key: uuid.UUID | None
    owner: str | None
    """The digest of the reader's token."""
    count_question: Allowance
    db: Database
    model: LanguageModel
    retriever: Retriever
    watch: RetrievalWatch
    settings: Settings

    @property
    def identity(self) -> Identity | None:
        """What a repetition of the request has in common with it; None if it cannot be told from another request."""
        return identity_of(self.request, self.owner, self.idempotency_key)


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
    """Return the turn of a question that may be asked; raises as `admit` does."""
    return Turn(
        request=question,
        idempotency_key=idempotency_key,
        owner=owner,
        count_question=await admit(request, question, owner, idempotency_key),
        db=request.state["database"],
        model=request.state["model"],
        retriever=retriever,
        watch=request.state["retrieval_watch"],
        settings=request.state["settings"],
    )


TurnDep = Annotated[Turn, Depends(get_turn)]


@router.post("/chat", responses=ERROR_RESPONSES, response_model_exclude_none=True)
async def chat(turn: TurnDep, turns: TurnsDep) -> ChatResponse:
    """Answer a question about the book.

    Without a `session_id` a new session begins, and the response names it. With one, the answer takes the session's last
    messages into account. With a `selected_text` the answer comes from that text alone.
    """
    return await turns.run(take_turn(turn))


async def take_turn(turn: Turn, emit: Emit | None = None, *, may_begin_session: bool = True) -> DoneEvent:
    """Answer the question and record both; with `emit`, tell of the recorded question, the passages, and the answer's pieces.

    When this returns, the answer is in the database. When it raises a ModelError, the question is; when it raises a
    DatabaseError, either may be missing. No connection is held while the model thinks. With an idempotency key, a recorded
    answer is returned as it is; IdempotencyConflictError and TurnInProgressError say why there is none to return.
    """
    request = turn.request
    keep_out_of_log(request.message, request.selected_text, request.page_url, request.reader_note)
    identity = turn.identity
    seconds = turn.settings.turn_seconds(is_streamed=emit is not None)
    async with deadline(seconds), look_up(turn.request, turn.retriever, turn.watch) as retrieval:
        history_limit = 0 if turn.request.selected_text else turn.settings.history_limit
        conversation = await find_conversation(
            turn.db, turn.request.session_id, owner=turn.owner, history_limit=history_limit
        )
        asked_at = time_after(conversation.last_message_at if conversation else None)
        if conversation is None:
            if not may_begin_session:
                raise SessionNotFoundError
            session_id = new_session_id(identity, asked_at)
            conversation = new_conversation(session_id, owner=turn.owner, first_message=turn.request.message)
        current_request().session_id = conversation.session_id
        retrieval.follow(conversation.previous_question)

        question = MessageBase(
            id=question_id(turn.idempotency_key),
            session_id=conversation.session_id,
            role=MessageRole.user,
            content=turn.request.message,
            selected_text=turn.request.selected_text,
            created_at=asked_at,
        )
        if identity is None:
            mark_as_claimed(question, seconds=seconds)
            return await _answer(turn, question, conversation, retrieval, emit)

        async with claim_question(turn.db, question, conversation, identity, seconds=seconds) as claim:
            current_request().session_id = question.session_id
            if claim.recorded_reply is None:
                return await _answer(turn, question, conversation, retrieval, emit)
            return _replay(question, claim.recorded_reply, emit)


def look_up(request: ChatRequest, retriever: Retriever, watch: RetrievalWatch | None = None) -> Retrieval:
    """Return the look-up of passages for the question; a question about an excerpt gets none."""
    if request.selected_text:
        retriever = retrieve_nothing
    return Retrieval(retriever, request.message, page_url=request.page_url, scope=request.scope, watch=watch)


async def _answer(
    turn: Turn, question: MessageBase, conversation: Conversation, retrieval: Retrieval, emit: Emit | None
) -> DoneEvent:
    """Ask the model, and record its reply; a question that no claim has recorded is recorded while the model thinks."""
    await turn.count_question()
    asking = asyncio.create_task(
        ask_model(turn.request, conversation.history, retrieval, emit, model=turn.model, settings=turn.settings)
    )
    try:
        if turn.idempotency_key is None:
            # A duplicate is our own first try, which arrived before its connection was lost.
            with contextlib.suppress(DuplicateKeyError):
                await record_question(turn.db, question, conversation)
        if emit:
            emit(question)
        answer = await asking
    except BaseException as error:
        # If recording failed, stop the model. If the model failed, the question is already recorded.
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        if turn.idempotency_key is None and not isinstance(error, DatabaseError):
            await give_up(turn.db, question, error)
        raise
    reply = await record_reply(turn.db, question, answer)
    if emit and (reply.content, reply.session_id) != (answer.text, question.session_id):
        # Another request answered the question meanwhile: what was told here is not what is recorded.
        raise TurnInProgressError(retry_after="1")
    return as_done(reply)


async def ask_model(  # noqa: PLR0913  # All that an answer depends on.
    request: ChatRequest,
    history: Sequence[PastTurn],
    retrieval: Retrieval,
    emit: Emit | None = None,
    *,
    model: LanguageModel,
    settings: Settings,
) -> Answer:
    """Return the model's answer: from the excerpt alone, or from the history and the passages that were found.

    Raises ModelError; an answer that is nothing but markers of passages that do not exist is none.
    """
    found = await retrieval.findings()
    sources = [
        as_source(number, passage, has_snippet=request.snippets) for number, passage in enumerate(found.passages, 1)
    ]
    if emit and (sources or found.is_lost):
        emit(SourcesEvent(sources=sources, unavailable=found.is_lost or None))

    def compose(background: Background) -> Sequence[PromptMessage]:
        return assemble_prompt(
            request.message,
            book_title=settings.book_title,
            instructions=settings.assistant_instructions,
            excerpt=request.selected_text,
            found=found.with_only(background.passages),
            history=background.history,
            reader_note=request.reader_note,
            follow_ups=request.follow_ups and emit is not None,
        )

    telling = Telling(emit, has_follow_ups=request.follow_ups)
    completion = await model.answer(compose, Background(history, found.passages), emit and telling.add)
    text, cited = cite(telling.end(completion.text), completion.passages)
    if not text.strip():
        raise ModelError(usage=completion.usage)
    return Answer(text, [sources[number - 1] for number in cited], completion, is_without_book=found.is_lost)


def as_source(number: int, passage: Passage, *, has_snippet: bool) -> Source:
    """Return the passage as the reader gets it; one without prose has no snippet."""
    source = Source(number=number, title=passage.title, url=passage.source)
    if has_snippet and (snippet := snippet_of(passage.text)):
        source["snippet"] = snippet
    return source


def _replay(question: MessageBase, reply: Row[Any], emit: Emit | None) -> DoneEvent:
    """Return a recorded answer; with `emit`, tell of it as if the model had given it in one piece."""
    done = as_done(reply)
    if emit:
        emit(question)
        if done.sources:
            emit(SourcesEvent(sources=done.sources))
        emit(DeltaEvent(text=done.response))
    return done
