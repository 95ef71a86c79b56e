"""A typed client of Minutebook: send, watch, resume, decide, erase. It needs httpx, nothing of the server."""

from minutebook_client.client import Client
from minutebook_client.erasure import Erasure
from minutebook_client.frames import ClientError, Frame, RefusedError, UnreachableError

__all__ = ["Client", "ClientError", "Erasure", "Frame", "RefusedError", "UnreachableError"]
