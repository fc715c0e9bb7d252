"""Response bodies that several test modules expect."""

from dirty_equals import IsUUID

NOT_FOUND = {
    "error": {
        "code": "not_found",
        "message": "There is no such conversation.",
        "request_id": IsUUID(4),
        "retryable": False,
    },
}
OVERLOADED = {
    "error": {
        "code": "overloaded",
        "message": "The service is busy. Please try again in a moment.",
        "request_id": IsUUID(4),
        "retryable": True,
    }
}
