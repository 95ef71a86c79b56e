"""The signals that ask a process to end: a supervisor's, and a person's Ctrl-C."""

import signal
from typing import Final

ENDING: Final = (signal.SIGTERM, signal.SIGINT)
