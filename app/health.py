"""Whether the process is alive, and whether the service can answer questions."""

from fastapi import APIRouter

from app.dependencies import Db
from app.errors import DatabaseError, NotReadyError
from app.models import ErrorResponse, HealthResponse, ReadyResponse

router = APIRouter(prefix="/health", tags=["health"])


@router.head("", include_in_schema=False)  # Uptime monitors send HEAD.
@router.get("")
async def health() -> HealthResponse:
    """Say that the process is alive. The database is not asked, so a suspended one is not woken up."""
    return HealthResponse()


@router.head("/ready", include_in_schema=False)
@router.get(
    "/ready",
    responses={
        503: {
            "model": ErrorResponse,
            "description": "`not_ready`: the database does not answer, only reads, or has not been migrated.",
        }
    },
)
async def ready(db: Db) -> ReadyResponse:
    """Say that a turn would succeed: the database answers, has the newest tables, and lets the service write."""
    try:
        is_migrated = await db.is_migrated()
    except DatabaseError as error:
        raise NotReadyError from error
    if not is_migrated:
        raise NotReadyError
    return ReadyResponse()
