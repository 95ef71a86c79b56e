"""What an operator asks of the read models: where they are, and to be built anew or compared."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import psycopg

from infrastructure.projections import checkpoints
from infrastructure.projections.connecting import connect
from infrastructure.projections.read_model import ReadModel
from infrastructure.projections.rebuild import Progress, Rebuild
from infrastructure.projections.registry import chosen
from infrastructure.projections.verify import Difference, Verified, verify
from infrastructure.vault import Vault

__all__ = [
    "Difference",
    "Progress",
    "Verified",
    "list_projections",
    "make_tables",
    "projection_names",
    "rebuild_projection",
    "troubles",
    "verify_projection",
]

_FAILED: Final = "SELECT name, failed_position FROM projections WHERE state = 'failed' ORDER BY name"


def make_tables(url: str, models: Sequence[ReadModel]) -> None:
    """Make the tables that are missing, so that queries find them. Raises `psycopg.Error`."""
    with connect(url, "make read models") as connection:
        for model in models:
            checkpoints.make_sure(connection, model)


def list_projections(url: str) -> list[dict[str, Any]]:
    """Return where every read model is: version, position, lag (events), state, error; times are ISO 8601."""
    with connect(url, "projections list") as connection:
        rows = checkpoints.overview(connection)
    return [{**row, "updated_at": row["updated_at"].isoformat(timespec="seconds")} for row in rows]


async def troubles(connection: psycopg.AsyncConnection[Any]) -> dict[str, str] | str:
    """Return what has stopped, by name, or `ok`."""
    found = await (await connection.execute(_FAILED)).fetchall()
    return {
        name: f"failed at position {position}" if position else "failed" for name, position in found
    } or "ok"


def rebuild_projection(
    url: str,
    vault: Vault,
    name: str,
    on_progress: Callable[[Progress], None],
    is_cancelled: Callable[[], bool],
) -> int:
    """Build a read model anew; returns the position at the swap, -1 where it was cancelled."""
    (model,) = chosen([name])
    return Rebuild(url, model, on_progress=on_progress, is_cancelled=is_cancelled, vault=vault).run()


def verify_projection(
    url: str,
    vault: Vault,
    name: str,
    on_progress: Callable[[Progress], None],
    is_cancelled: Callable[[], bool],
    on_difference: Callable[[Difference], None],
) -> Verified | None:
    """Compare a read model with what the log says; None where it was cancelled."""
    (model,) = chosen([name])
    rebuild = Rebuild(url, model, on_progress=on_progress, is_cancelled=is_cancelled, vault=vault)
    return verify(rebuild, model, on_difference)


def projection_names(names: Sequence[str]) -> list[str]:
    """Return the names given, all where there is none. Raises `UnknownReadModelError`."""
    return [model.name for model in chosen(names)]
