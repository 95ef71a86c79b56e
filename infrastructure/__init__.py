"""How it is kept: the adapters of the application's ports."""
