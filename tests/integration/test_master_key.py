"""The key that everything is sealed under: another one, or none, is refused; it is never made anew."""

import asyncio
from pathlib import Path

from tests.command_line import minutebook
from tests.integration.test_erasure import own_server


async def test_another_master_key_is_refused_in_one_sentence(server_folder: Path) -> None:
    async with own_server(server_folder) as client:
        await client.say("hello")
    other = "b3RoZXIgb3RoZXIgb3RoZXIgb3RoZXIgb3RoZXIgb3Q="
    refused = await asyncio.to_thread(minutebook, server_folder, "rebuild", master_key=other)
    assert refused.returncode == 2
    assert refused.stderr.strip().count("\n") == 0
    assert "master key" in refused.stderr


async def test_a_lost_key_file_is_asked_for_and_not_made_anew(server_folder: Path, database_url: str) -> None:
    keys = server_folder / "keys"
    given = {"database_url": database_url, "master_key": "", "keys": str(keys)}
    assert (await asyncio.to_thread(minutebook, server_folder, "rebuild", **given)).returncode == 0
    kept = (keys / "master.key").read_bytes()
    (keys / "master.key").unlink()
    refused = await asyncio.to_thread(minutebook, server_folder, "rebuild", **given)
    assert refused.returncode == 2
    assert str(keys / "master.key") in refused.stderr
    assert not (keys / "master.key").exists()
    (keys / "master.key").write_bytes(kept)
    (keys / "master.key").chmod(0o600)
    assert (await asyncio.to_thread(minutebook, server_folder, "rebuild", **given)).returncode == 0
