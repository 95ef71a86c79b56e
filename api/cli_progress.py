"""How far a command is, on standard error: a bar for people, and nothing where nobody watches."""

from rich.console import Console
from rich.progress import Progress, ProgressColumn


def progress(*columns: ProgressColumn, is_wanted: bool = True) -> Progress:
    """Return bars that go when they are done. In a crontab or a pipe they would leave an empty line."""
    console = Console(stderr=True)
    is_shown = is_wanted and console.is_terminal
    return Progress(*columns, console=console, transient=True, disable=not is_shown)
