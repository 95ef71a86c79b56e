"""The tests. Before anything else of them, what others wrote is imported: untraced."""

from tests.untraced import import_libraries

import_libraries()
