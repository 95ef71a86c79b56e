"""Texts that models send, made fit to be kept."""


def storable_text(text: str) -> str:
    """Replace what no log can keep and no reader can read: NUL and halves of surrogate pairs."""
    return text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
