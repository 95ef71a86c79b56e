"""`python -m api` is `minutebook`."""

from api.cli import main

main()
