"""`minutebook erase`: the contents of a conversation, destroyed for good."""

import asyncio
import json
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, TextColumn

from api.bootstrap.database import database
from api.bootstrap.erasing import Progress as Step
from api.bootstrap.erasing import erase_conversation, scrub_erased
from api.cli_progress import progress
from api.settings import read_settings
from application.erasing import said

_LATER = "run `minutebook erase` again without --no-scrub, or let a server do it"

_NO_EVENT = "Nothing of it was in the log, which has no receipt either"


def erase(
    conversation: Annotated[str, typer.Argument(help="The conversation's id.")],
    reason: Annotated[
        str | None, typer.Option(help="Why, for the receipt: who reads the log reads it.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether you mean it.")] = False,
    no_scrub: Annotated[bool, typer.Option("--no-scrub", help="Leave the old files to a server.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")] = False,
) -> None:
    """Destroy what was said in a conversation, for good; that it was, who did what and when, stays.

    Its key is destroyed, the read models forget it, and then the files that held it are written anew. Reads
    and writes go on meanwhile.
    """
    if not yes:
        typer.confirm(f"Nothing brings the contents of {conversation} back. Erase them?", abort=True)
    settings = read_settings()
    with database(settings) as url:
        erasure = asyncio.run(erase_conversation(settings, url, conversation, reason))
        left = [f"old files still hold it; {_LATER}"] if no_scrub else _scrub(settings, url, as_json)
    if as_json:
        print(json.dumps({**said(erasure), "position": erasure.position, "left": left}))
        return
    counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in erasure.erased.items())
    receipt = f"The receipt is at position {erasure.position}" if erasure.position else _NO_EVENT
    print(f"Erased {conversation}: {counts}. {receipt}.")
    for sentence in left:
        print(f"Left to you: {sentence}.")


def _scrub(settings: Any, url: str, as_json: bool) -> list[str]:
    columns = (TextColumn("{task.description}"), BarColumn())
    with progress(*columns, is_wanted=not as_json) as bars:
        bar = bars.add_task("scrubbing", total=1)

        def show(step: Step) -> None:
            bars.update(
                bar, description=f"{step.name}: {step.phase}", completed=step.position, total=step.target
            )

        return list(scrub_erased(settings, url, show).left)
