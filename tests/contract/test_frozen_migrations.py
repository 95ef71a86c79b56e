"""A migration that databases have been through stays as it is: whatever changes comes in a new one."""

from hashlib import sha256
from importlib.resources import files

FROZEN = {
    "001_log.sql": "e7b461dab039c363",
    "002_turns.sql": "68edecfa1b0e9556",
    "003_projections.sql": "1c4de33bfdfa49cd",
    "004_chunks.sql": "648ea3cbe1d013d4",
    "005_seal.sql": "0bcd349f0845ecea",
    "006_keys.sql": "d0ec2e7ffd5163ef",
    "007_audit.sql": "d2ee40eaf41e5c00",
    "008_turns_begun.sql": "00e2e0d8192d0e50",
    "009_append.sql": "ac40723f31a24051",
}


def test_no_migration_changes_once_it_is_there() -> None:
    folder = files("infrastructure.postgres") / "migrations"
    found = {
        entry.name: sha256(entry.read_bytes()).hexdigest()[:16]
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    }
    assert found == FROZEN, "add a migration (CREATE OR REPLACE FUNCTION, ALTER TABLE) instead"
