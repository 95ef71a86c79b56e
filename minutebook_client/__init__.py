"""A typed client of Minutebook: send, watch, resume, decide. It needs httpx and nothing of the server."""

from minutebook_client.client import Client
from minutebook_client.frames import ClientError, Frame, RefusedError, UnreachableError

__all__ = ["Client", "ClientError", "Frame", "RefusedError", "UnreachableError"]
