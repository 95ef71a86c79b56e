"""What is true: the two aggregates, their values and the rules they keep."""
