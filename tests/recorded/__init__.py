"""Real conversations: 120 recorded runs of an airline's agent, from tau-bench (Sierra, MIT, `LICENSE` here).

One a line, `{"id", "messages"}`, as OpenAI's chats have them; the system prompt, the same in all, is left
out. They are untidy as real ones are: call ids come back, and some end on a tool's result.
"""

import gzip
import json
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).with_name("airline-conversations.jsonl.gz")


def recorded_conversations() -> list[dict[str, Any]]:
    """Return the conversations in the order of the file."""
    return [json.loads(line) for line in gzip.decompress(FILE.read_bytes()).decode().splitlines()]
