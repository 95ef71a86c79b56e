"""Checkpoints are signed notes as others read and write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infrastructure.audit.notes import Checkpoint, NoteError, Signer, Verifier, notes_in, parsed, signed

# The example key of the specification's reference implementation (golang.org/x/mod/sumdb/note).
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
one, other = Signer("minutebook", bytes(range(32))), Signer("minutebook", bytes(32))
checkpoints = st.builds(
    Checkpoint, st.just("minutebook"), st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32)
)


def test_a_note_that_another_implementation_signed_is_accepted() -> None:
    verifier = Verifier.parsed(GO_VKEY)
    assert verifier.vkey == GO_VKEY
    assert verifier.has_signed(parsed(GO_NOTE))
    assert not verifier.has_signed(parsed(GO_NOTE.replace("don't", "do")))


@given(checkpoints)
def test_what_is_signed_is_read_again_and_holds(checkpoint: Checkpoint) -> None:
    note = parsed(signed(checkpoint, [one]))
    assert note.checkpoint() == checkpoint
    assert one.verifier.has_signed(note)
    assert not other.verifier.has_signed(note)


def test_a_note_can_carry_the_signatures_of_two_keys() -> None:
    note = parsed(signed(Checkpoint("minutebook", 5, bytes(32)), [one, other]))
    assert one.verifier.has_signed(note)
    assert other.verifier.has_signed(note)


@given(checkpoints, st.data())
def test_a_signature_holds_for_no_other_checkpoint(checkpoint: Checkpoint, data: st.DataObject) -> None:
    another = data.draw(checkpoints.filter(lambda it: it != checkpoint))
    lines = signed(checkpoint, [one]).partition("\n\n")[2]
    assert not one.verifier.has_signed(parsed(f"{another.text}\n{lines}"))


def test_notes_that_follow_each_other_are_told_apart() -> None:
    notes = [signed(Checkpoint("minutebook", size, bytes(32)), [one, other]) for size in range(3)]
    assert list(notes_in("".join(notes))) == notes
    assert list(notes_in("\n".join(notes) + "\n\n")) == notes


@pytest.mark.parametrize(
    "note",
    ["", "minutebook\n1\nAAAA\n", "minutebook\n1\n\nno signature\n", "text\n\n— minutebook AAAA\n"],
)
def test_what_is_no_signed_note_is_refused(note: str) -> None:
    with pytest.raises(NoteError):
        parsed(note)


@pytest.mark.parametrize("text", ["minutebook\n1\nAAAA\n", "minutebook\n01\n" + "A" * 43 + "=\n", "x\n"])
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteError):
        parsed(text + "\n" + one.line(text)).checkpoint()


@pytest.mark.parametrize("vkey", ["", "a+b+c", GO_VKEY.replace("c74f", "c74e"), GO_VKEY[:-4], "name"])
def test_what_is_no_verifier_key_is_refused(vkey: str) -> None:
    with pytest.raises(NoteError, match="is no verifier key"):
        Verifier.parsed(vkey)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "a\nb"])
def test_a_name_that_a_note_cannot_carry_is_refused(name: str) -> None:
    with pytest.raises(NoteError):
        Signer(name, bytes(32))
