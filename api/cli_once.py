"""What all commands share: an option that counts once is given once."""

from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

from api.settings import SettingsError

F = TypeVar("F", bound=Callable[..., Any])


class OnceCommand(TyperCommand):
    """A command that refuses an option given again, where only the last one would count."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what was given. Raises `SettingsError`, beside the library's own errors."""
        _, _, given = self.make_parser(ctx).parse_args(list(args))
        for option, times in Counter(given).items():
            if times > 1 and _counts_once(option):
                raise SettingsError(f"{option.opts[0]} is given more than once, and counts once.")
        return super().parse_args(ctx, args)


def _counts_once(option: Any) -> bool:
    return option.param_type_name == "option" and not (option.multiple or option.is_flag)


class CommandLine(typer.Typer):
    """Commands that refuse an option given again."""

    def command(self, name: str | None = None, **given: Any) -> Callable[[F], F]:
        """Return what registers a command, as the library does."""
        return super().command(name, **{"cls": OnceCommand, **given})
