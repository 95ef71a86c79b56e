"""The sealed log over HTTP: signed checkpoints, and proofs of inclusion and of consistency."""

import base64
from dataclasses import asdict
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import PlainTextResponse

from api.auth import auditing
from api.parameters import KNOWN_ONLY
from api.reading import Limit
from application.sealing import Seals

router = APIRouter(prefix="/v1/audit", tags=["audit"], dependencies=[Depends(auditing), *KNOWN_ONLY])
_MOST: Final = 2**63 - 1


async def _seals(request: Request) -> Seals:
    seals: Seals = request.app.state.seals
    return seals


TheSeals = Annotated[Seals, Depends(_seals)]
Size = Annotated[int | None, Query(ge=1, le=_MOST, description="Absent: that of the newest checkpoint.")]


@router.get("/checkpoint", response_class=PlainTextResponse)
async def newest_checkpoint(seals: TheSeals) -> PlainTextResponse:
    """Return the newest checkpoint as a signed note, to be kept elsewhere."""
    newest = await seals.newest()
    return PlainTextResponse(newest.note)


@router.get("/checkpoints")
async def list_checkpoints(
    seals: TheSeals,
    after: Annotated[int, Query(ge=0, le=_MOST, description="Only those with a higher number.")] = 0,
    limit: Limit = 50,
) -> dict[str, Any]:
    """List the stored checkpoints, oldest first."""
    page = await seals.page(after, limit)
    return {
        "checkpoints": [asdict(one) for one in page.items],
        "next": page.items[-1].number if page.more else None,
    }


@router.get("/proofs/inclusion")
async def prove_inclusion(
    seals: TheSeals,
    position: Annotated[int, Query(ge=1, le=_MOST, description="The event's position.")],
    size: Size = None,
) -> dict[str, Any]:
    """Prove that an event is in the log of `size` events (RFC 6962, 2.1.1)."""
    proof = await seals.inclusion(position, size)
    return {
        "position": proof.position,
        "leaf_index": proof.leaf_index,
        "size": proof.size,
        "leaf_hash": _base64(proof.leaf_hash),
        "root": _base64(proof.root),
        "audit_path": [_base64(one) for one in proof.audit_path],
    }


@router.get("/proofs/consistency")
async def prove_consistency(
    seals: TheSeals,
    old: Annotated[int, Query(ge=1, le=_MOST, alias="from", description="The smaller size.")],
    new: Annotated[
        int | None, Query(ge=1, le=_MOST, alias="to", description="Absent: that of the newest checkpoint.")
    ] = None,
) -> dict[str, Any]:
    """Prove that the log of `from` events is the beginning of that of `to` (RFC 6962, 2.1.2)."""
    proof = await seals.consistency(old, new)
    return {
        "from": proof.old,
        "to": proof.new,
        "from_root": _base64(proof.old_root),
        "to_root": _base64(proof.new_root),
        "consistency": [_base64(one) for one in proof.path],
    }


def _base64(hashed: bytes) -> str:
    return base64.b64encode(hashed).decode()
