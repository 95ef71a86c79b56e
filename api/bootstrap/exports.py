"""Exports, for whoever writes, checks or takes one in again."""

from typing import Any

from api.bootstrap.keys import open_vault
from api.settings import Settings
from application.exporting import Manifest
from infrastructure.exports import operating
from infrastructure.exports.operating import check_export, is_export, prove_export

__all__ = ["check_export", "is_export", "prove_export", "restore_export", "write_export"]


def write_export(settings: Settings, url: str, *how: Any, with_keys: bool) -> Manifest | None:
    """Write the log as a file (`infrastructure.exports.operating`)."""
    return operating.write_export(url, open_vault(settings, url)[0], *how, with_keys=with_keys)


def restore_export(settings: Settings, url: str, *how: Any) -> int:
    """Take an export into an empty store (`infrastructure.exports.operating`)."""
    return operating.restore_export(url, open_vault(settings, url)[0], *how)
