"""What a database has stored: all its tables with their indexes and large values."""

from typing import Any

# For an index `pg_table_size` is the index; all of these together are the sum of pg_total_relation_size.
SIZES = """
    SELECT relname, pg_table_size(oid) FROM pg_class
     WHERE relkind IN ('r', 'i') AND relnamespace = 'public'::regnamespace
"""


def stored_bytes(connection: Any) -> dict[str, int]:
    """Return the bytes of every table (large values included) and every index, vacuumed and checkpointed.

    `connection` is one of psycopg's, in autocommit.
    """
    connection.execute("VACUUM")
    connection.execute("CHECKPOINT")
    return dict(connection.execute(SIZES).fetchall())


def growth(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    """Return by how many bytes each has grown."""
    return {name: size - before.get(name, 0) for name, size in after.items()}
