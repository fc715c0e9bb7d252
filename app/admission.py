"""Whether a question may be asked: its length, the owner's pause, the tokens of the day, the reader's rate."""

import uuid
from functools import partial

from fastapi.exceptions import RequestValidationError

from app.conversations import is_answered
from app.dependencies import StateRequest
from app.errors import ChatError, PausedError, RateLimitedError
from app.idempotency import identity_of, question_id
from app.models import ChatRequest
from app.pause import Pauses
from app.ratelimit import Allowance


async def admit(
    request: StateRequest, question: ChatRequest, owner: str | None, idempotency_key: uuid.UUID | None
) -> Allowance:
    """Return the function that counts the question, to be called when it goes to the model.

    Raises RequestValidationError if a text is longer than the settings allow. Raises PausedError if the service is paused, and
    RateLimitedError if the reader has no question left or the day no tokens, except for a question that has been answered or
    is being answered by this process: then the function raises it, should the model be asked after all. A pause of which this
    process hears only now is raised by the function too.
    """
    state = request.state
    settings = state["settings"]
    limits = {"message": settings.max_message_chars, "selected_text": settings.max_selected_text_chars}
    too_long = [
        {"loc": ("body", name), "msg": f"must not be longer than {limit} characters"}
        for name, limit in limits.items()
        if len(getattr(question, name) or "") > limit
    ]
    if too_long:
        raise RequestValidationError(too_long)
    try:
        await state["pauses"].expect()
        await state["budget"].check()
        allowance = await state["limiter"].allowance(request, owner)
    except (PausedError, RateLimitedError) as error:
        if not await _is_paid(request, question, owner, idempotency_key):
            raise
        return partial(_refuse, error)
    return partial(_count, state["pauses"], allowance)


async def _is_paid(
    request: StateRequest, question: ChatRequest, owner: str | None, idempotency_key: uuid.UUID | None
) -> bool:
    """Whether the question has its answer, or gets it from this process: to hear it again costs no tokens."""
    identity = identity_of(question, owner, idempotency_key)
    if identity is None:
        return False
    if request.state["broadcasts"].get(identity):
        return True
    return await is_answered(request.state["database"], question_id(idempotency_key))


async def _count(pauses: Pauses, allowance: Allowance) -> None:
    await pauses.check()
    await allowance()


async def _refuse(error: ChatError) -> None:
    raise error
