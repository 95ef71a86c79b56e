"""Every door: HTTP, SSE and the command line."""
