"""Wires the house by hand: the one package that knows every adapter.

`house` opens a server: over its `store`, the `turns` that run, what goes on in the `background`, and the
`doors`. The other modules each serve commands that need no server, so that a command loads what it uses.
"""
