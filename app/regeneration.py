"""Answering a recorded question anew."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Path
from sqlalchemy import or_, select
from sqlmodel import col

from app.chat import Emit, Turn, ask_model, look_up, new_turn
from app.conversations import find_conversation, replace_reply
from app.dependencies import ReaderToken, RetrieverDep, StateRequest, TurnsDep, owner_of
from app.errors import ERROR_RESPONSES, AnswerNotFoundError, ModelError, SessionNotFoundError
from app.history import SessionId, find_session, parse_id
from app.idempotency import give_up, take_over
from app.logs import keep_out_of_log
from app.models import ChatRequest, ChatResponse, DoneEvent, Message, MessageBase, MessageRole, ReaderContext, as_done
from app.retrieval import Retriever
from app.turns import deadline

router = APIRouter(prefix="/chat/{session_id}/messages/{message_id}", tags=["chat"])


@dataclass(frozen=True)
class Regeneration:
    """A recorded question, and the turn that answers it anew."""

    turn: Turn
    question: MessageBase

    async def take(self, emit: Emit | None = None) -> DoneEvent:
        """Answer the question anew; the old answer, and what was said after it, stay until the new one is recorded.

        Of several requests for one question, the last gives the answer that stays: the others raise TurnInProgressError.
        Otherwise as `take_turn`.
        """
        turn, question = self.turn, self.question
        keep_out_of_log(question.content, question.selected_text, turn.request.page_url, turn.request.reader_note)
        history_limit = 0 if question.selected_text else turn.settings.history_limit
        seconds = turn.settings.turn_seconds(is_streamed=emit is not None)
        async with deadline(seconds), look_up(turn.request, turn.retriever, turn.watch) as retrieval:
            conversation = await find_conversation(
                turn.db, str(question.session_id), owner=turn.owner, history_limit=history_limit, before=question
            )
            if conversation is None:
                raise SessionNotFoundError
            retrieval.follow(conversation.previous_question)
            await turn.count_question()
            await take_over(turn.db, question)
            if emit:
                emit(question)
            try:
                answer = await ask_model(
                    turn.request, conversation.history, retrieval, emit, model=turn.model, settings=turn.settings
                )
            except ModelError as error:
                await give_up(turn.db, question, error)
                raise
            until = conversation.last_message_at
            return as_done(await replace_reply(turn.db, question, answer, until=until))


async def new_regeneration(  # noqa: PLR0913, PLR0917  # Each is what the request is about.
    request: StateRequest,
    session_id: str,
    message_id: str,
    retriever: Retriever,
    owner: str | None,
    context: ReaderContext,
) -> Regeneration:
    """Return the regeneration of the answer, or of the question, with this id.

    Raises SessionNotFoundError, AnswerNotFoundError, and what `new_turn` raises.
    """
    db = request.state["database"]
    session = await find_session(db, session_id, owner)
    known_id = parse_id(message_id, unknown=AnswerNotFoundError)
    asked = select(col(Message.reply_to)).where(col(Message.id) == known_id).scalar_subquery()
    rows = await db.execute(
        (
            select(Message).where(
                col(Message.session_id) == session.id,
                col(Message.role) == MessageRole.user,
                or_(col(Message.id) == known_id, col(Message.id) == asked),
            ),
            {},
        )
    )
    if not rows:
        raise AnswerNotFoundError
    question = MessageBase.model_validate(rows[0], from_attributes=True)
    again = ChatRequest(
        message=question.content,
        session_id=session_id,
        selected_text=question.selected_text,
        page_url=context.page_url,
        scope=context.scope,
        reader_note=context.reader_note,
        snippets=context.snippets,
    )
    return Regeneration(await new_turn(request, again, retriever, owner), question)


async def get_regeneration(  # noqa: PLR0913, PLR0917  # Each is a part of the request.
    request: StateRequest,
    session_id: SessionId,
    message_id: Annotated[str, Path(description="The answer's id, or its question's.")],
    retriever: RetrieverDep,
    context: ReaderContext | None = None,
    reader_token: ReaderToken = None,
) -> Regeneration:
    """Return the regeneration that the request asks for."""
    owner = owner_of(reader_token)
    return await new_regeneration(request, session_id, message_id, retriever, owner, context or ReaderContext())


RegenerationDep = Annotated[Regeneration, Depends(get_regeneration)]


@router.post("/regenerate", responses=ERROR_RESPONSES, response_model_exclude_none=True)
async def regenerate(regeneration: RegenerationDep, turns: TurnsDep) -> ChatResponse:
    """Answer a recorded question anew, for a reader who is on this page.

    The new answer takes the place of the old one, and what was said after it is deleted; if it fails, everything stays as it
    was. If it is asked for twice at the same time, the later request gets the answer.
    """
    return await turns.run(regeneration.take())
