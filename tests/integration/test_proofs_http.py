"""Checkpoints and proofs over HTTP: a client with a checkpoint and a public key needs nothing else."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest

from infrastructure.audit.leaf import leaf_hash_of
from infrastructure.audit.merkle import is_consistent, is_included, root_of
from infrastructure.audit.notes import parsed
from tests.sealing import fill, fill_and_seal, rows_of, seal, sealed_checkpoints, signing_in
from tests.serving import Serving, serving

SIZES = (3, 256, 257, 700)


@pytest.fixture
def sealed_url(database_url: str, tmp_path: Path) -> str:
    fill_and_seal(database_url, tmp_path, SIZES)
    fill(database_url, 5)
    return database_url


async def get(server: Serving, path: str, **params: Any) -> Any:
    response = await server.client.http.get(f"/v1/audit/{path}", params=params)
    assert response.status_code == 200, response.text
    return response.json()


def hashes(values: list[str]) -> list[bytes]:
    return [base64.b64decode(value) for value in values]


async def test_the_newest_checkpoint_is_a_signed_note(sealed_url: str, tmp_path: Path) -> None:
    (verifier,) = signing_in(tmp_path).verifiers()
    async with serving(sealed_url, seal=False) as server:
        response = await server.client.http.get("/v1/audit/checkpoint")
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        note = parsed(response.text)
        assert note.checkpoint().size == 700
        assert verifier.verifier.has_signed(note)


async def test_checkpoints_are_listed_page_by_page(sealed_url: str) -> None:
    async with serving(sealed_url, seal=False) as server:
        first = await get(server, "checkpoints", limit=3)
        assert ([one["size"] for one in first["checkpoints"]], first["next"]) == ([3, 256, 257], 3)
        second = await get(server, "checkpoints", after=first["next"])
        assert ([one["size"] for one in second["checkpoints"]], second["next"]) == ([700], None)


async def test_every_event_is_proven_to_be_in_every_log_that_has_it(sealed_url: str) -> None:
    leaves = [leaf_hash_of(row) for row in rows_of(sealed_url)]
    async with serving(sealed_url, seal=False) as server:
        for position in (1, 2, 3, 255, 256, 257, 512, 513, 600, 700):
            for size in {position, 256, 257, 511, 700}:
                if size >= position:
                    proof = await get(server, "proofs/inclusion", position=position, size=size)
                    root, path = base64.b64decode(proof["root"]), hashes(proof["audit_path"])
                    assert root == root_of(leaves[:size])
                    assert base64.b64decode(proof["leaf_hash"]) == leaves[position - 1]
                    assert is_included(leaves[position - 1], proof["leaf_index"], size, path, root)
        newest = await get(server, "proofs/inclusion", position=1)
        assert newest["size"] == 700


async def test_every_size_is_proven_to_begin_every_later_one(sealed_url: str) -> None:
    leaves = [leaf_hash_of(row) for row in rows_of(sealed_url)]
    async with serving(sealed_url, seal=False) as server:
        for old in (1, 3, 255, 256, 257, 512, 699, 700):
            for new in {old, 256, 300, 512, 700}:
                if new >= old:
                    proof = await get(server, "proofs/consistency", **{"from": old, "to": new})
                    roots = hashes([proof["from_root"], proof["to_root"]])
                    assert roots == [root_of(leaves[:old]), root_of(leaves[:new])]
                    assert is_consistent(old, new, roots[0], roots[1], hashes(proof["consistency"]))
        assert (await get(server, "proofs/consistency", **{"from": 5}))["to"] == 700


@pytest.fixture
def tall_url(database_url: str, tmp_path: Path) -> str:
    """A log of 66,000 events, which finish a tile of tiles."""
    fill(database_url, 66_000)
    seal(database_url, tmp_path)
    return database_url


async def test_a_proof_from_a_tree_with_a_level_above_holds(tall_url: str) -> None:
    root = (await asyncio.to_thread(sealed_checkpoints, tall_url))[-1].root
    rows = await asyncio.to_thread(rows_of, tall_url)
    leaves = {row.position: leaf_hash_of(row) for row in rows if row.position % 13_000 == 1}
    async with serving(tall_url, seal=False) as server:
        for position, leaf in leaves.items():
            proof = await get(server, "proofs/inclusion", position=position)
            assert is_included(leaf, position - 1, 66_000, hashes(proof["audit_path"]), root)


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("proofs/inclusion?position=701", 404, "not_sealed"),
        ("proofs/inclusion?position=1&size=701", 404, "not_sealed"),
        ("proofs/inclusion?position=300&size=299", 422, "invalid_filter"),
        ("proofs/inclusion?position=0", 422, "invalid_message"),
        ("proofs/inclusion?position=x", 422, "invalid_message"),
        ("proofs/consistency?from=1&to=701", 404, "not_sealed"),
        ("proofs/consistency?from=10&to=9", 422, "invalid_filter"),
        ("proofs/consistency?from=0", 422, "invalid_message"),
        ("proofs/inclusion?position=1&siz=300", 422, "invalid_filter"),
        ("checkpoints?from=3", 422, "invalid_filter"),
    ],
)
async def test_what_cannot_be_proven_is_refused(sealed_url: str, path: str, status: int, code: str) -> None:
    async with serving(sealed_url, seal=False) as server:
        response = await server.client.http.get(f"/v1/audit/{path}")
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert "message" not in response.json()["detail"]


async def test_before_anything_is_sealed_there_is_no_checkpoint(database_url: str) -> None:
    async with serving(database_url, seal=False) as server:
        response = await server.client.http.get("/v1/audit/checkpoint")
        assert (response.status_code, response.json()["code"]) == (404, "not_sealed")
        assert await get(server, "checkpoints") == {"checkpoints": [], "next": None}


@pytest.mark.parametrize("path", ["checkpoint", "checkpoints", "proofs/inclusion?position=1"])
async def test_only_auditors_are_told(database_url: str, path: str) -> None:
    settings = {"identity_header": "X-Subject", "scopes_header": "X-Scopes", "seal": False}
    async with serving(database_url, **settings) as server:
        headers = {"X-Subject": "anna", "X-Scopes": "chat operate"}
        response = await server.client.http.get(f"/v1/audit/{path}", headers=headers)
        assert (response.status_code, response.json()["code"]) == (403, "forbidden")
