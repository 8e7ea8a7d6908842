"""A bucket lets a second's worth through at once, then as fast as it fills."""

import pytest

from serve.rates import Bucket, Rate, whole_seconds


def test_a_bucket_fills_at_its_rate_and_no_further() -> None:
    now_s = 0.0
    bucket = Bucket(Rate.parse("4/s"), clock=lambda: now_s)
    assert [bucket.take() for _ in range(5)] == [0.0, 0.0, 0.0, 0.0, 0.25]
    now_s = 0.25
    assert bucket.take() == 0.0
    assert bucket.take() == pytest.approx(0.25)
    now_s = 1000.0
    assert [bucket.take() for _ in range(4)] == [0.0] * 4
    assert bucket.take() > 0


def test_what_is_owed_is_waited_for() -> None:
    now_s = 0.0
    bucket = Bucket(Rate.parse("4/s"), clock=lambda: now_s)
    bucket.owe(10)
    assert bucket.take() == pytest.approx(7 / 4)
    now_s = 1.75
    assert bucket.take() == 0.0


def test_slow_rates_let_one_through() -> None:
    bucket = Bucket(Rate.parse("1/min"), clock=lambda: 5.0)
    assert (bucket.take(), bucket.take()) == (0.0, 60.0)


@pytest.mark.parametrize("text", ["", "5", "5/h", "-1/s", "0/s", "s/5", "1e9/s", "5 /s"])
def test_other_rates_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        Rate.parse(text)


def test_seconds_are_rounded_up() -> None:
    assert [whole_seconds(s) for s in (0.01, 1.0, 1.2)] == [1, 1, 2]
