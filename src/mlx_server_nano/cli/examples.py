"""How to try the server, ready to copy and paste."""

from __future__ import annotations

from typing import Final

PROMPT: Final = "Hello, what can you do?"


def examples(url: str, model: str, *, key: bool) -> str:
    """A request with curl and the same with the package `openai`. key: the server wants an API key, which is not shown."""
    messages = f'[{{"role": "user", "content": "{PROMPT}"}}]'
    bearer = " -H 'Authorization: Bearer YOUR_KEY'" if key else ""
    return f"""Try it from another terminal with curl, or in Python with the package openai:

curl {url}/v1/chat/completions{bearer} -H 'Content-Type: application/json' \\
  -d '{{"model": "{model}", "messages": {messages}}}'

from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="{"YOUR_KEY" if key else "unused"}")
answer = client.chat.completions.create(model="{model}", messages={messages})
print(answer.choices[0].message.content)
"""
