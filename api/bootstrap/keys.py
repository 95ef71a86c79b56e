"""The keys: the master key that opens what was said, and the one that signs checkpoints."""

from api.settings import Settings, SettingsError
from infrastructure.audit.signing import Signing
from infrastructure.keys import KeyUnusableError, create_or_read_key, given_key
from infrastructure.postgres.key_store import MasterKeyError, has_master, settle_master
from infrastructure.vault import Vault


def open_vault(settings: Settings, url: str) -> tuple[Vault, bytes]:
    """Return the vault, and the salt of the keys derived from its master key. Raises `SettingsError`."""
    _refuse_to_make_another(settings, url)
    vault = Vault(master_key(settings))
    try:
        return vault, settle_master(url, vault)
    except MasterKeyError as error:
        raise SettingsError(str(error)) from None


def _refuse_to_make_another(settings: Settings, url: str) -> None:
    """A restored database without its key file needs that file: a new one would only hide what is missing."""
    file = settings.key_folder / "master.key"
    if not settings.master_key and not file.exists() and has_master(url):
        raise SettingsError(
            f"The master key of this database is missing: put a copy at {file} or set MINUTEBOOK_MASTER_KEY."
        )


def master_key(settings: Settings) -> bytes:
    """Return the master key: the one that is set, else that of the key folder. Raises `SettingsError`."""
    try:
        if settings.master_key:
            return given_key(settings.master_key.get_secret_value(), "MINUTEBOOK_MASTER_KEY")
        return create_or_read_key(settings.key_folder / "master.key")
    except KeyUnusableError as error:
        raise SettingsError(str(error)) from None


def signing_of(settings: Settings) -> Signing:
    """Return what signs checkpoints; it reads its key when it first needs it."""
    given = settings.signing_key.get_secret_value() if settings.signing_key else None
    return Signing(settings.seal_origin, settings.key_folder, given)
