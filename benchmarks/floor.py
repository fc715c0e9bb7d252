"""The floor: the least code that answers a question with the official SDK. It has no sessions and no database."""

import os
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI
from fastapi.sse import EventSourceResponse, ServerSentEvent
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel


class Question(BaseModel):
    """A question."""

    message: str


class Answer(BaseModel):
    """An answer."""

    response: str


app = FastAPI()
client = AsyncOpenAI()


def _prompt(question: Question) -> list[ChatCompletionMessageParam]:
    return [{"role": "system", "content": "You are helpful."}, {"role": "user", "content": question.message}]


@app.post("/chat")
async def chat(question: Question) -> Answer:
    """Answer a question."""
    completion = await client.chat.completions.create(model="gpt-6-luna", messages=_prompt(question))
    return Answer(response=completion.choices[0].message.content or "")


@app.post("/chat/stream", response_class=EventSourceResponse)
async def stream(question: Question) -> AsyncIterator[ServerSentEvent]:
    """Answer a question piece by piece."""
    pieces = await client.chat.completions.create(model="gpt-6-luna", messages=_prompt(question), stream=True)
    async for piece in pieces:
        yield ServerSentEvent(event="delta", data={"text": piece.choices[0].delta.content or ""})


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["PORT"]), access_log=False)
