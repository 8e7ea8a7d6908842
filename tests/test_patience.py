import pytest

from cmir.archive.patience import patient


@pytest.mark.parametrize(
    "cut",
    [
        "LanceError(IO): Error getting list response body: HTTP error: request or response body error",
        "AWS Error INTERNAL_FAILURE during GetObject operation: Failed to flush response stream (eof: 0, bad: 1)",
    ],
)
def test_a_cut_answer_is_asked_for_again_and_no_other_trouble_is(cut: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    @patient
    def ask(trouble: str, num_troubles: int) -> int:
        calls.append(trouble)
        if len(calls) <= num_troubles:
            raise OSError(trouble)
        return len(calls)

    monkeypatch.setattr("time.sleep", lambda _: None)
    assert ask(cut, 2) == 3
    calls.clear()
    with pytest.raises(OSError, match="response"):
        ask(cut, 99)
    assert len(calls) == 5
    calls.clear()
    with pytest.raises(OSError, match="no room"):
        ask("no room", 1)
    assert len(calls) == 1
