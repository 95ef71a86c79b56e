"""The read models, for whoever operates them."""

from typing import Any

from api.bootstrap.keys import open_vault
from api.settings import Settings
from infrastructure.projections import operating
from infrastructure.projections.operating import (
    Difference,
    Progress,
    Verified,
    list_projections,
    projection_names,
)

__all__ = [
    "Difference",
    "Progress",
    "list_projections",
    "projection_names",
    "rebuild_projection",
    "verify_projection",
]


def rebuild_projection(settings: Settings, url: str, *how: Any) -> int:
    """Build a read model anew (`infrastructure.projections.operating`)."""
    return operating.rebuild_projection(url, open_vault(settings, url)[0], *how)


def verify_projection(settings: Settings, url: str, *how: Any) -> Verified | None:
    """Compare a read model with the log (`infrastructure.projections.operating`)."""
    return operating.verify_projection(url, open_vault(settings, url)[0], *how)
