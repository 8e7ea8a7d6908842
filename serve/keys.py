"""A file of hashed API keys -> is this bearer allowed in.

One line a key, `NAME:sha256:HEX`, with `20/s` or `300/min` after it where its bearer may ask no more often; `#` begins
a comment. Only digests are stored; a plain digest is enough because keys are 256 random bits, not passwords. The file
is looked at again whenever it changes, so that striking a line revokes a key without a restart; a file that has gone
lets nobody in. `python -m serve.keys NAME [RATE]` makes a key and its line.
"""

import hashlib
import hmac
import logging
import re
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cmir.errors import ConfigError
from serve.problems import ProblemError
from serve.rates import Bucket, Rate, whole_seconds

_LINE: Final = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,64}):sha256:(?P<digest>[0-9a-f]{64})(?:\s+(?P<rate>\S+))?")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bearer:
    """Whose key it is, and how often it may be used."""

    name: str
    rate: Rate | None = None


def new_key(name: str, rate: str | None = None) -> tuple[str, str]:
    """A fresh key and the line of the key file that admits it, at most so often where a rate is given.

    Raises ConfigError for a name that does not fit into the file, or what is no rate.
    """
    if not _LINE.fullmatch(f"{name}:sha256:{'0' * 64}"):
        raise ConfigError("cannot name an API key", seen=repr(name), expected="letters, digits, . _ - (at most 64)")
    try:
        limit = f" {rate}" if rate and Rate.parse(rate) else ""
    except ValueError as error:
        raise ConfigError("cannot limit an API key", seen=repr(rate), expected="N/s or N/min") from error
    key = "cmir_" + secrets.token_urlsafe(32)
    return key, f"{name}:sha256:{hashlib.sha256(key.encode()).hexdigest()}{limit}"


class KeyRing:
    """The keys of one file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError where the file cannot be read or admits nobody."""
        self._path = path
        self._seen_state: tuple[int, int, int] | None = None
        self._bearers: Mapping[str, Bearer] = {}  # by the digest of their key
        self._buckets: dict[str, Bucket] = {}
        self._refresh()
        if not self._bearers:
            raise ConfigError(
                "no API key can be read",
                where=path,
                expected="lines NAME:sha256:HEX",
                fix="python -m serve.keys NAME prints a key and its line",
            )

    def admit(self, authorization: str | None) -> str:
        """The name of the bearer, one request of whose rate is taken.

        Raises ProblemError 401 where there is no key, or none that is known, 429 where it was used too often.
        """
        digest, bearer = self._known(authorization)
        if bearer.rate is not None:
            bucket = self._buckets.get(digest)
            if bucket is None or bucket.rate != bearer.rate:
                bucket = self._buckets[digest] = Bucket(bearer.rate)
            if wait_s := bucket.take():
                raise ProblemError(
                    429,
                    f"the API key {bearer.name} is used more often than {bearer.rate.per_s:g} times a second",
                    headers={"Retry-After": str(whole_seconds(wait_s))},
                )
        return bearer.name

    def charge(self, authorization: str | None, num_requests: int) -> None:
        """Take so many more requests of the bearer's rate, on credit: those that follow wait for them."""
        digest, _ = self._known(authorization)
        if bucket := self._buckets.get(digest):
            bucket.owe(num_requests)

    def _known(self, authorization: str | None) -> tuple[str, Bearer]:
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise _unauthorized("an API key is needed: Authorization: Bearer KEY", "Bearer")
        self._refresh()
        digest = hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).hexdigest()
        for known, bearer in self._bearers.items():
            if hmac.compare_digest(known, digest):
                return known, bearer
        raise _unauthorized("this API key is not known, or was revoked", 'Bearer error="invalid_token"')

    def _refresh(self) -> None:
        try:
            stat = self._path.stat()
            state = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if state == self._seen_state:
                return
            text = self._path.read_text()
        except OSError as error:
            if self._bearers:
                _log.error("cannot read the API keys, letting nobody in: %s", error)
            self._bearers, self._seen_state = {}, None
            return
        self._bearers, self._seen_state = _parse(text, self._path), state
        self._buckets = {digest: bucket for digest, bucket in self._buckets.items() if digest in self._bearers}


def _parse(text: str, path: Path) -> dict[str, Bearer]:
    bearers = {}
    for number, line in enumerate(text.splitlines(), start=1):
        entry = line.split("#", 1)[0].strip()
        if not entry:
            continue
        match = _LINE.fullmatch(entry)
        try:
            if match is None:
                raise ValueError("expected NAME:sha256:HEX [RATE]")
            rate = Rate.parse(match["rate"]) if match["rate"] else None
        except ValueError as error:  # a rate that cannot be read admits nobody, rather than without a limit
            _log.error("line %d of %s is no API key line, skipped: %s", number, path, error)
            continue
        bearers[match["digest"]] = Bearer(match["name"], rate)
    return bearers


def _unauthorized(detail: str, challenge: str) -> ProblemError:
    return ProblemError(401, detail, headers={"WWW-Authenticate": challenge})


if __name__ == "__main__":
    made_key, made_line = new_key(*sys.argv[1:3])
    print(f"key (give it to its bearer, it is not stored): {made_key}\nline for the key file: {made_line}")
