"""Hashed keys: known ones pass, struck ones do not, without a restart."""

import os
from pathlib import Path

import pytest

from cmir.errors import ConfigError
from serve.keys import KeyRing, new_key
from serve.problems import ProblemError


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def test_a_key_passes_by_its_name_and_is_not_in_the_file(keys_file: Path) -> None:
    (alice, alice_line), (bob, bob_line) = new_key("alice"), new_key("bob.2")
    keys_file.write_text(f"# who may ask\n{alice_line}\n\n{bob_line}  # until June\n")
    ring = KeyRing(keys_file)
    assert ring.name_of(f"Bearer {alice}") == "alice"
    assert ring.name_of(f"bearer {bob}") == "bob.2"
    assert alice not in keys_file.read_text()


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer cmir_wrong", "Bearer \udcff"])
def test_others_are_refused_with_a_challenge(keys_file: Path, header: str | None) -> None:
    keys_file.write_text(new_key("alice")[1])
    with pytest.raises(ProblemError, match="key") as caught:
        KeyRing(keys_file).name_of(header)
    assert caught.value.status_code == 401
    assert (caught.value.headers or {})["WWW-Authenticate"].startswith("Bearer")


def test_striking_a_line_revokes_its_key_and_a_missing_file_all(keys_file: Path) -> None:
    (alice, alice_line), (bob, bob_line) = new_key("alice"), new_key("bob")
    keys_file.write_text(f"{alice_line}\n{bob_line}\n")
    ring = KeyRing(keys_file)
    assert ring.name_of(f"Bearer {bob}") == "bob"
    keys_file.write_text(f"{alice_line}\n")
    with pytest.raises(ProblemError, match="revoked"):
        ring.name_of(f"Bearer {bob}")
    assert ring.name_of(f"Bearer {alice}") == "alice"
    keys_file.unlink()
    with pytest.raises(ProblemError, match="revoked"):
        ring.name_of(f"Bearer {alice}")


def test_a_file_replaced_with_the_same_length_is_read_again(keys_file: Path) -> None:
    (old, old_line), (new, new_line) = new_key("aa"), new_key("bb")
    keys_file.write_text(old_line)
    ring = KeyRing(keys_file)
    replacement = keys_file.with_name("next")
    replacement.write_text(new_line)
    os.replace(replacement, keys_file)  # noqa: PTH105 - as a secret is rotated
    assert ring.name_of(f"Bearer {new}") == "bb"
    with pytest.raises(ProblemError, match="revoked"):
        ring.name_of(f"Bearer {old}")


def test_a_broken_line_is_skipped_and_no_good_line_is_refused(
    keys_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alice, line = new_key("alice")
    keys_file.write_text(f"alice:plain:{alice}\n{line}\n")
    assert KeyRing(keys_file).name_of(f"Bearer {alice}") == "alice"
    assert "line 1" in caplog.text
    assert alice not in caplog.text
    keys_file.write_text("nothing\n")
    with pytest.raises(ConfigError, match="no API key can be read"):
        KeyRing(keys_file)
    with pytest.raises(ConfigError, match="no API key can be read"):
        KeyRing(keys_file.with_name("missing"))


def test_a_name_that_would_break_the_file_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot name an API key"):
        new_key("a:b")
