"""The log becomes answers: one file a read model, one fold for live and for rebuilding."""
