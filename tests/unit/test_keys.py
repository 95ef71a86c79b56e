"""Keys are made once, read only by us, and refused with a sentence where they cannot be trusted."""

import base64
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from infrastructure.audit.signing import Signing
from infrastructure.keys import KeyUnusableError, create_or_read_key, given_key, read_key, write_key


def test_a_key_is_made_at_the_first_time_and_read_ever_after(tmp_path: Path) -> None:
    path = tmp_path / "data" / "keys" / "one.key"
    key = create_or_read_key(path)
    assert len(key) == 32
    assert create_or_read_key(path) == key == read_key(path)
    assert create_or_read_key(path.with_name("other.key")) != key


def test_only_we_can_read_a_key_and_see_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "one.key"
    create_or_read_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [one.name for one in path.parent.iterdir()] == ["one.key"]


def test_all_who_make_a_key_at_once_get_the_same(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "one.key"
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(create_or_read_key, [path] * 64))) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620, 0o602])
def test_a_key_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys" / "one.key"
    create_or_read_key(path)
    path.chmod(mode)
    with pytest.raises(KeyUnusableError, match="others can read the file"):
        create_or_read_key(path)


def test_a_folder_in_which_others_can_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(KeyUnusableError, match="others can write in the folder"):
        create_or_read_key(folder / "one.key")


@pytest.mark.parametrize("content", ["", "AAAA\n", "not base64", base64.b64encode(bytes(33)).decode()])
def test_a_damaged_key_is_refused_and_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "one.key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(KeyUnusableError, match="is not 32 bytes in base64"):
        create_or_read_key(path)
    assert path.read_text() == content


def test_a_missing_key_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(KeyUnusableError, match=r"cannot be read \(No such file"):
        read_key(tmp_path / "one.key")


def test_bytes_are_no_list_of_public_keys(tmp_path: Path) -> None:
    signing = Signing("minutebook.example/log", tmp_path)
    signing.verifiers_path.write_bytes(b"\xff\xfe\0")
    with pytest.raises(KeyUnusableError, match="is no list of public keys"):
        signing.verifiers()
    with pytest.raises(KeyUnusableError, match="is no list of public keys"):
        signing.note_verifier(0, signing.signer(may_create=True).verifier)
    assert signing.verifiers_path.read_bytes() == b"\xff\xfe\0"


def test_a_folder_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "one.key").mkdir()
    with pytest.raises(KeyUnusableError, match="is no file"):
        read_key(tmp_path / "one.key")


def test_a_key_is_replaced_only_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "one.key"
    first = create_or_read_key(path)
    write_key(path, bytes(32))
    assert read_key(path) == first
    write_key(path, bytes(32), replace=True)
    assert read_key(path) == bytes(32)


def test_a_setting_gives_the_key_itself_or_its_file(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "one.key"
    key = create_or_read_key(path)
    assert given_key(base64.b64encode(key).decode(), "THE_KEY") == key
    assert given_key(str(path), "THE_KEY") == key


def test_a_setting_that_is_neither_is_refused_without_being_shown() -> None:
    short = base64.b64encode(bytes(range(31))).decode()
    with pytest.raises(KeyUnusableError, match="THE_KEY is not 32 bytes in base64, and no file") as caught:
        given_key(short, "THE_KEY")
    assert short not in str(caught.value)
