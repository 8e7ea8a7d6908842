"""An S3 store as the AWS_* variables name it: one mapper of credentials and retries for s3fs, pyarrow and Lance.

All three try a request again, with growing pauses, when the store does not answer, cuts the line or answers 5xx. By
default an outage of a minute is waited out and one of several is an error; AWS_MAX_ATTEMPTS sets it. The surprising
decision: for Lance the attempts are turned into seconds. Its pauses grow so slowly that ten attempts end within three.
"""

import math
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import fsspec
import pyarrow.fs as pafs

from cmir.errors import ConfigError

_MAX_ATTEMPTS: Final = 14
_LONGEST_PAUSE_S: Final = 20  # of botocore and of the AWS SDK in pyarrow; theirs are drawn between 0 and 2^n seconds
_UNBOUNDED: Final = 10_000
_CONNECT_TIMEOUT_S: Final = 10
_ANSWER_TIMEOUT_S: Final = 60


@dataclass(frozen=True, slots=True)
class S3Settings:
    """What the AWS_* variables say, read once per use so that a worker sees its own environment."""

    endpoint_url: str | None
    region: str
    access_key_id: str | None
    secret_access_key: str | None
    session_token: str | None
    max_attempts: int

    @classmethod
    def from_environment(cls) -> "S3Settings":
        env = os.environ
        return cls(
            endpoint_url=env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL") or None,
            region=env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or "us-east-1",
            access_key_id=env.get("AWS_ACCESS_KEY_ID"),
            secret_access_key=env.get("AWS_SECRET_ACCESS_KEY"),
            session_token=env.get("AWS_SESSION_TOKEN"),
            max_attempts=_whole(env.get("AWS_MAX_ATTEMPTS"), _MAX_ATTEMPTS),
        )

    @property
    def patience_s(self) -> float:
        """Seconds that the pauses between the attempts last on the mean, 95 for the default of 14."""
        return sum(min(1 << n, _LONGEST_PAUSE_S) for n in range(self.max_attempts - 1)) / 2

    def lance_options(self) -> dict[str, str]:
        """Lance's storage_options, all strings."""
        options = {
            "region": self.region,
            "endpoint": self.endpoint_url,
            "access_key_id": self.access_key_id,
            "secret_access_key": self.secret_access_key,
            "session_token": self.session_token,
            "allow_http": "true" if (self.endpoint_url or "").startswith("http://") else None,
            "client_max_retries": str(_UNBOUNDED if self.max_attempts > 1 else 0),
            "client_retry_timeout": str(math.ceil(self.patience_s)),
            "download_retry_count": str(self.max_attempts),
            "connect_timeout": f"{_CONNECT_TIMEOUT_S}s",
            "timeout": f"{_ANSWER_TIMEOUT_S}s",
        }
        return {key: value for key, value in options.items() if value is not None}


@lru_cache(maxsize=4)
def s3fs_filesystem(settings: S3Settings) -> "fsspec.AbstractFileSystem":
    """The client that lists and puts."""
    return fsspec.filesystem(
        "s3",
        key=settings.access_key_id,
        secret=settings.secret_access_key,
        token=settings.session_token,
        use_listings_cache=False,
        client_kwargs={"endpoint_url": settings.endpoint_url, "region_name": settings.region},
        config_kwargs={
            "retries": {"mode": "standard", "total_max_attempts": settings.max_attempts},
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "read_timeout": _ANSWER_TIMEOUT_S,
        },
    )


@lru_cache(maxsize=4)
def arrow_s3(settings: S3Settings) -> pafs.FileSystem:
    """The client that reads Parquet."""
    # Stores other than AWS refuse the checksum trailers that the bundled SDK adds unless told not to.
    for name in ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"):
        os.environ.setdefault(name, "when_required")
    return pafs.S3FileSystem(
        access_key=settings.access_key_id,
        secret_key=settings.secret_access_key,
        session_token=settings.session_token,
        region=settings.region,
        endpoint_override=settings.endpoint_url,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=settings.max_attempts),
        connect_timeout=_CONNECT_TIMEOUT_S,
        request_timeout=_ANSWER_TIMEOUT_S,
    )


def _whole(text: str | None, default: int) -> int:
    """A count of at least 1 from an environment variable. Raises ConfigError for anything else."""
    if not text:
        return default
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError("AWS_MAX_ATTEMPTS does not fit", seen=text, expected="a whole number of at least 1")
    return int(text)
