"""What is sealed opens in its place and nowhere else, and a destroyed key stays destroyed."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import ConversationErasedError
from infrastructure.packing import packed
from infrastructure.postgres.batch import NewEvent
from infrastructure.postgres.sealing import sealed
from infrastructure.vault import ERASED, SEALED, DataKey, NoKey, Nonces, StoredDataError, Vault, about_event

MASTER = bytes(range(32))
ABOUT = about_event("conversation-c1", 7, "conversation.renamed")


def key() -> DataKey:
    return Vault(MASTER).new_key("c1")[0]


@given(st.binary(max_size=2000))
def test_what_was_sealed_opens_as_it_was(data: bytes) -> None:
    one = key()
    secret = one.seal(data, ABOUT)
    assert secret.startswith(SEALED)
    assert len(secret) == 1 + 12 + len(packed(data)) + 16
    assert one.open(secret, ABOUT) == data


def test_the_same_said_twice_is_sealed_differently() -> None:
    one = key()
    assert len({one.seal(b"{}", ABOUT) for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "about",
    [
        about_event("conversation-c2", 7, "conversation.renamed"),
        about_event("conversation-c1", 8, "conversation.renamed"),
        about_event("conversation-c1", 7, "conversation.archived"),
    ],
)
def test_data_moved_to_another_row_is_refused(about: bytes) -> None:
    one = key()
    with pytest.raises(StoredDataError, match="is not what was sealed"):
        one.open(one.seal(b'{"title":"mine"}', ABOUT), about)


@given(st.data())
def test_any_changed_bit_is_refused(data: st.DataObject) -> None:
    one = key()
    secret = bytearray(one.seal(b'{"title":"mine"}', ABOUT))
    bit = data.draw(st.integers(8, 8 * len(secret) - 1))  # of the first byte: it is another kind of data
    secret[bit // 8] ^= 1 << bit % 8
    with pytest.raises(StoredDataError):
        one.open(bytes(secret), ABOUT)


@pytest.mark.parametrize("length", [1, 5, 13, 28])
def test_what_was_cut_short_is_refused(length: int) -> None:
    one = key()
    with pytest.raises(StoredDataError):
        one.open(one.seal(b'{"title":"mine"}', ABOUT)[:length], ABOUT)


def test_the_key_of_another_conversation_opens_nothing() -> None:
    with pytest.raises(StoredDataError):
        key().open(key().seal(b"{}", ABOUT), ABOUT)


def test_a_key_is_wrapped_for_its_conversation_and_its_master() -> None:
    one, wrapped = Vault(MASTER).new_key("c1")
    again = Vault(MASTER).unwrap("c1", wrapped)
    assert again.open(one.seal(b"{}", ABOUT), ABOUT) == b"{}"
    with pytest.raises(StoredDataError):
        Vault(MASTER).unwrap("c2", wrapped)
    with pytest.raises(StoredDataError):
        Vault(bytes(32)).unwrap("c1", wrapped)


def test_a_destroyed_key_reads_as_erased_seals_nothing_and_never_comes_back() -> None:
    vault = Vault(MASTER)
    one, wrapped = vault.new_key("c1")
    vault.keep("c1", one)
    vault.forget("c1")
    assert vault.find("c1") is ERASED
    assert vault.unwrap("c1", wrapped) is ERASED  # somebody had fetched it just before
    assert ERASED.open(one.seal(b"{}", ABOUT), ABOUT) == b'{"erased":true}'
    assert ERASED.open(b'{"reason":null}', ABOUT) == b'{"reason":null}'  # the receipt
    with pytest.raises(ConversationErasedError):
        ERASED.seal(b"{}", ABOUT)


def test_without_its_key_only_what_was_never_sealed_is_read() -> None:
    assert NoKey("c1").open(b"{}", ABOUT) == b"{}"
    with pytest.raises(StoredDataError, match="no key of conversation c1"):
        NoKey("c1").open(key().seal(b"{}", ABOUT), ABOUT)


def test_only_the_keys_used_last_are_kept_in_memory() -> None:
    vault = Vault(MASTER, most_keys=3)
    for name in "abc":
        vault.unwrap(name, vault.new_key(name)[1])
    vault.find("a")
    vault.unwrap("d", vault.new_key("d")[1])
    assert [name for name in "abcd" if vault.find(name)] == ["a", "c", "d"]


def test_another_process_opens_what_this_one_sealed() -> None:
    vault = Vault(MASTER)
    one, wrapped = vault.new_key("c1")
    there = pickle.loads(pickle.dumps(vault))
    assert there.unwrap("c1", wrapped).open(one.seal(b"{}", ABOUT), ABOUT) == b"{}"


def test_a_purpose_has_a_key_of_its_own() -> None:
    vault = Vault(MASTER)
    secret = vault.purpose("turns", b"salt").seal(b"{}", ABOUT)
    assert Vault(MASTER).purpose("turns", b"salt").open(secret, ABOUT) == b"{}"
    for other in (vault.purpose("chunks", b"salt"), vault.purpose("turns", b"pepper")):
        with pytest.raises(StoredDataError):
            other.open(secret, ABOUT)


def test_an_event_is_sealed_together_with_its_place() -> None:
    one = key()
    event = NewEvent("conversation-c1", 7, "conversation.renamed", "c1", "t1", "user:ada", b'{"title":"x"}')
    assert one.open(sealed(event, one).data, ABOUT) == event.data


def test_a_master_key_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Vault(b"short")


def test_no_two_threads_get_the_same_nonce() -> None:
    nonces = Nonces()
    with ThreadPoolExecutor(8) as threads:
        given = list(threads.map(lambda _: [nonces() for _ in range(5000)], range(8)))
    assert len({one for some in given for one in some}) == 40_000


def test_a_forked_process_seals_with_nonces_of_its_own() -> None:
    one = key()
    one.seal(b"{}", ABOUT)  # now nonces are left over, which the child would have too
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, one.seal(b"{}", ABOUT))
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 100)
    os.close(reading)
    os.close(writing)
    assert theirs.startswith(SEALED)
    assert theirs != one.seal(b"{}", ABOUT)
