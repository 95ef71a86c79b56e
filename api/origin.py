"""The origin's door: its requests and chunks, translated over the same turns."""

from fastapi import APIRouter

router = APIRouter(tags=["origin"])
