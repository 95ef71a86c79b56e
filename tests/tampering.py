"""An adversary with every right in the database, and a sealed log for them to change."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from infrastructure.audit.verify import Verification, Verified, exported_in
from tests.sealing import fill, fill_and_seal, sealed_checkpoints, signing_in

SIZES = (200, 700, 703)  # of the checkpoints; the last tile begins after 512
ROLL_BACK = (
    "DELETE FROM log WHERE position > 200",
    "DELETE FROM seal_checkpoints WHERE size > 200",
    "DELETE FROM seal_tiles",
)


@dataclass(frozen=True)
class Sealed:
    """A sealed log, and what of it was exported."""

    url: str
    folder: Path
    exported: str

    def verified(self, exported: str = "") -> Verified:
        verifiers = signing_in(self.folder).verifiers_or_none()
        kept = exported_in("exported.note", exported, verifiers) if exported else []
        return Verification(self.url, verifiers, kept, workers=1).run()


def sealed_log(url: str, folder: Path) -> Sealed:
    """Make a log of 706 events, 703 of them sealed, with three checkpoints."""
    fill_and_seal(url, folder, SIZES)
    fill(url, 3)
    assert [one.size for one in sealed_checkpoints(url)] == list(SIZES)
    return Sealed(url, folder, sealed_checkpoints(url)[-1].note)


@contextmanager
def adversary(url: str) -> Iterator[psycopg.Connection]:
    """Give every right, with nothing that guards the tables."""
    with psycopg.connect(url) as connection:
        for table in ("log", "seal_tiles", "seal_checkpoints"):
            connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL".encode())
        yield connection
        for table in ("log", "seal_tiles", "seal_checkpoints"):
            connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER ALL".encode())


def run(url: str, *statements: str) -> None:
    with adversary(url) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def told(found: Verified) -> str:
    return "; ".join(one.what for one in found.findings)
