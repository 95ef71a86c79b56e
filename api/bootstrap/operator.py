"""What an operator sees of the turns."""

from infrastructure.postgres.operator import operator_turns

__all__ = ["operator_turns"]
