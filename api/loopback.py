"""Which names mean this machine and no other."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether the name or address reaches this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
