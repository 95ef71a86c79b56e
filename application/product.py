"""What this is, as exports, the API and the package say it."""

from typing import Final

VERSION: Final = "0.1.0"
PRODUCT: Final = f"minutebook {VERSION}"
