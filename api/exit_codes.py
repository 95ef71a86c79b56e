"""How commands end where it is neither well nor an error: the same number for the same thing everywhere."""

from typing import Final

DOES_NOT_FIT: Final = 3  # something was compared, and it is not what it was to be
NOTHING_TO_COMPARE: Final = 4
NOT_SEALED: Final = 5  # what was compared fits, but for too long nothing has been sealed that could be
INTERRUPTED: Final = 130
