import pytest

from cmir.archive import storage
from cmir.errors import ConfigError


def test_lance_options_come_from_the_same_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    options = storage.lance_options("s3://bucket/gallery")
    assert options is not None
    assert options["endpoint"] == "http://127.0.0.1:1"
    assert options["allow_http"] == "true"
    assert all(isinstance(value, str) for value in options.values())
    for attempts, seconds, retries in ((None, "96", "10000"), ("3", "2", "10000"), ("1", "0", "0")):
        if attempts:
            monkeypatch.setenv("AWS_MAX_ATTEMPTS", attempts)
        options = storage.lance_options("s3://bucket/gallery") or {}
        assert (options["client_retry_timeout"], options["client_max_retries"]) == (seconds, retries)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "often")
    with pytest.raises(ConfigError, match="AWS_MAX_ATTEMPTS does not fit: seen often"):
        storage.lance_options("s3://bucket/gallery")
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    assert storage.lance_options("/local") is None
