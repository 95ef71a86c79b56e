"""The keys: the master key that opens what was said, and the one that signs checkpoints."""

from pathlib import Path

from api.settings import Settings, SettingsError
from infrastructure.audit.signing import Signing
from infrastructure.keys import KeyUnusableError, create_or_read_key, given_key
from infrastructure.postgres.key_store import MasterKeyError, has_master, settle_master
from infrastructure.vault import Vault


def open_vault(settings: Settings, url: str) -> tuple[Vault, bytes]:
    """Return the vault, and the salt of the keys derived from its master key. Raises `SettingsError`."""
    try:
        _refuse_to_make_another(settings, url)
        vault = Vault(master_key(settings))
        return vault, settle_master(url, vault)
    except MasterKeyError as error:
        raise SettingsError(str(error)) from None


def check_master_key(settings: Settings, url: str) -> None:
    """Find what is wrong with the master key; makes none where there is none yet. Raises `SettingsError`."""
    try:
        is_bound = has_master(url)
    except MasterKeyError as error:
        raise SettingsError(str(error)) from None
    if is_bound:
        open_vault(settings, url)
    elif _has_key(settings):
        master_key(settings)


def _refuse_to_make_another(settings: Settings, url: str) -> None:
    """A restored database without its key file needs that file: a new one would only hide what is missing."""
    if not _has_key(settings) and has_master(url):
        raise SettingsError(
            f"The master key of this database is missing: put a copy at {_key_file(settings)}"
            " or set MINUTEBOOK_MASTER_KEY."
        )


def _has_key(settings: Settings) -> bool:
    return bool(settings.master_key) or _key_file(settings).exists()


def _key_file(settings: Settings) -> Path:
    return settings.key_folder / "master.key"


def master_key(settings: Settings) -> bytes:
    """Return the master key: the one that is set, else that of the key folder. Raises `SettingsError`."""
    try:
        if settings.master_key:
            return given_key(settings.master_key.get_secret_value(), "MINUTEBOOK_MASTER_KEY")
        return create_or_read_key(_key_file(settings))
    except KeyUnusableError as error:
        raise SettingsError(str(error)) from None


def signing_of(settings: Settings) -> Signing:
    """Return what signs checkpoints; it reads its key when it first needs it."""
    given = settings.signing_key.get_secret_value() if settings.signing_key else None
    return Signing(settings.seal_origin, settings.key_folder, given)
