"""Hashed keys: known ones pass, struck ones do not, without a restart."""

import os
from pathlib import Path

import pytest

from cmir.errors import ConfigError
from serve.keys import KeyRing, new_key
from serve.problems import ProblemError
from serve.rates import Bucket


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def test_a_key_passes_by_its_name_and_is_not_in_the_file(keys_file: Path) -> None:
    (alice, alice_line), (bob, bob_line) = new_key("alice"), new_key("bob.2")
    keys_file.write_text(f"# who may ask\n{alice_line}\n\n{bob_line}  # until June\n")
    ring = KeyRing(keys_file)
    assert ring.admit(f"Bearer {alice}") == "alice"
    assert ring.admit(f"bearer {bob}") == "bob.2"
    assert alice not in keys_file.read_text()


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer cmir_wrong", "Bearer \udcff"])
def test_others_are_refused_with_a_challenge(keys_file: Path, header: str | None) -> None:
    keys_file.write_text(new_key("alice")[1])
    with pytest.raises(ProblemError, match="key") as caught:
        KeyRing(keys_file).admit(header)
    assert caught.value.status_code == 401
    assert (caught.value.headers or {})["WWW-Authenticate"].startswith("Bearer")


def test_striking_a_line_revokes_its_key_and_a_missing_file_all(keys_file: Path) -> None:
    (alice, alice_line), (bob, bob_line) = new_key("alice"), new_key("bob")
    keys_file.write_text(f"{alice_line}\n{bob_line}\n")
    ring = KeyRing(keys_file)
    assert ring.admit(f"Bearer {bob}") == "bob"
    keys_file.write_text(f"{alice_line}\n")
    with pytest.raises(ProblemError, match="revoked"):
        ring.admit(f"Bearer {bob}")
    assert ring.admit(f"Bearer {alice}") == "alice"
    keys_file.unlink()
    with pytest.raises(ProblemError, match="revoked"):
        ring.admit(f"Bearer {alice}")


def test_a_file_replaced_with_the_same_length_is_read_again(keys_file: Path) -> None:
    (old, old_line), (new, new_line) = new_key("aa"), new_key("bb")
    keys_file.write_text(old_line)
    ring = KeyRing(keys_file)
    replacement = keys_file.with_name("next")
    replacement.write_text(new_line)
    os.replace(replacement, keys_file)  # noqa: PTH105 - as a secret is rotated
    assert ring.admit(f"Bearer {new}") == "bb"
    with pytest.raises(ProblemError, match="revoked"):
        ring.admit(f"Bearer {old}")


def test_a_broken_line_is_skipped_and_no_good_line_is_refused(
    keys_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alice, line = new_key("alice")
    keys_file.write_text(f"alice:plain:{alice}\n{line}\n")
    assert KeyRing(keys_file).admit(f"Bearer {alice}") == "alice"
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


def test_a_key_with_a_rate_is_told_when_to_come_back(keys_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(Bucket.__init__, "__defaults__", (lambda: now_s,))
    (slow, slow_line), (free, free_line) = new_key("slow", "2/min"), new_key("free")
    keys_file.write_text(f"{slow_line}\n{free_line}\n")
    ring = KeyRing(keys_file)
    assert ring.admit(f"Bearer {slow}") == "slow"
    with pytest.raises(ProblemError, match="slow is used more often") as caught:
        ring.admit(f"Bearer {slow}")
    assert (caught.value.status_code, caught.value.headers) == (429, {"Retry-After": "30"})
    assert [ring.admit(f"Bearer {free}") for _ in range(50)] == ["free"] * 50, "others are not slowed"
    now_s += 30.0
    assert ring.admit(f"Bearer {slow}") == "slow"
    keys_file.write_text(f"{slow_line.replace('2/min', '5/s')}\n{free_line}\n")
    assert [ring.admit(f"Bearer {slow}") for _ in range(5)] == ["slow"] * 5, "a new rate holds at once"


def test_a_rate_that_cannot_be_read_admits_nobody(keys_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    (odd, odd_line), (good, good_line) = new_key("odd"), new_key("good")
    keys_file.write_text(f"{odd_line} 0/s\n{good_line} 7/s\n")
    ring = KeyRing(keys_file)
    assert "line 1" in caplog.text
    assert "no rate" in caplog.text
    with pytest.raises(ProblemError, match="not known"):
        ring.admit(f"Bearer {odd}")
    assert ring.admit(f"Bearer {good}") == "good"
    with pytest.raises(ConfigError, match="cannot limit an API key"):
        new_key("alice", "often")
