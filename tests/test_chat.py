"""The turn, through HTTP, on both databases."""

from datetime import datetime, timedelta

from dirty_equals import IsStr, IsUUID

from app.models import MessageRole
from tests.conftest import Service
from tests.fake_openai import FakeOpenAI


async def test_a_first_message_begins_a_session_and_is_answered(service: Service, model_server: FakeOpenAI) -> None:
    response = await service.chat("What is a humanoid robot?")

    assert response.status_code == 200
    body = response.json()
    assert body == {
        "response": "Answer 1 to: What is a humanoid robot?",
        "session_id": IsUUID(4),
        "timestamp": IsStr,
    }
    assert datetime.fromisoformat(body["timestamp"]).utcoffset() == timedelta(0)
    [session] = await service.tables.sessions()
    assert str(session.id) == body["session_id"]
    messages = await service.tables.messages()
    assert [(m.session_id, m.role, m.content, m.selected_text) for m in messages] == [
        (session.id, MessageRole.user, "What is a humanoid robot?", None),
        (session.id, MessageRole.assistant, "Answer 1 to: What is a humanoid robot?", None),
    ]
    assert messages[1].created_at == datetime.fromisoformat(body["timestamp"])
