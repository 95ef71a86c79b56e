"""The log as files: written, checked without a database, and taken in again."""
