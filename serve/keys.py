"""A file of hashed API keys -> is this bearer allowed in.

One line a key, `NAME:sha256:HEX`, `#` begins a comment. Only digests are stored; a plain digest is enough because keys
are 256 random bits, not passwords. The file is looked at again whenever it changes, so that striking a line revokes a
key without a restart; a file that has gone lets nobody in. `python -m serve.keys NAME` makes a key and its line.
"""

import hashlib
import hmac
import logging
import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cmir.errors import ConfigError
from serve.problems import ProblemError

_LINE: Final = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64}):sha256:(?P<digest>[0-9a-f]{64})")
_log = logging.getLogger(__name__)


def new_key(name: str) -> tuple[str, str]:
    """A fresh key and the line of the key file that admits it."""
    if not _LINE.fullmatch(f"{name}:sha256:{'0' * 64}"):
        raise ConfigError("cannot name an API key", seen=repr(name), expected="letters, digits, . _ - (at most 64)")
    key = "cmir_" + secrets.token_urlsafe(32)
    return key, f"{name}:sha256:{hashlib.sha256(key.encode()).hexdigest()}"


class KeyRing:
    """The keys of one file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError where the file cannot be read or admits nobody."""
        self._path = path
        self._seen_state: tuple[int, int, int] | None = None
        self._names_by_digest: Mapping[str, str] = {}
        self._refresh()
        if not self._names_by_digest:
            raise ConfigError(
                "no API key can be read",
                where=path,
                expected="lines NAME:sha256:HEX",
                fix="python -m serve.keys NAME prints a key and its line",
            )

    def name_of(self, authorization: str | None) -> str:
        """The name of the bearer. Raises ProblemError 401 where there is no key, or none that is known."""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise _unauthorized("an API key is needed: Authorization: Bearer KEY", "Bearer")
        self._refresh()
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).hexdigest()
        for known, name in self._names_by_digest.items():
            if hmac.compare_digest(known, digest):
                return name
        raise _unauthorized("this API key is not known, or was revoked", 'Bearer error="invalid_token"')

    def _refresh(self) -> None:
        try:
            stat = self._path.stat()
            state = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if state == self._seen_state:
                return
            text = self._path.read_text()
        except OSError as error:
            if self._names_by_digest:
                _log.error("cannot read the API keys, letting nobody in: %s", error)
            self._names_by_digest, self._seen_state = {}, None
            return
        self._names_by_digest, self._seen_state = _parse(text, self._path), state


def _parse(text: str, path: Path) -> dict[str, str]:
    names_by_digest = {}
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.split("#", 1)[0].strip()
        if match := _LINE.fullmatch(entry):
            names_by_digest[match["digest"]] = match["name"]
        elif entry:
            _log.error("line %d of %s is no API key line, skipped", number, path)
    return names_by_digest


def _unauthorized(detail: str, challenge: str) -> ProblemError:
    return ProblemError(401, detail, headers={"WWW-Authenticate": challenge})


if __name__ == "__main__":
    made_key, made_line = new_key(sys.argv[1] if len(sys.argv) == 2 else "")
    print(f"key (give it to its bearer, it is not stored): {made_key}\nline for the key file: {made_line}")
