import pickle

import pytest

from cmir import errors
from cmir.errors import CmirError, DataError


def test_a_message_says_what_seen_expected_where_and_what_to_do() -> None:
    error = DataError("cannot decode", seen="3 bands", expected="4 bands", where="a.tif", fix="name the bands")
    assert str(error) == "cannot decode: seen 3 bands, expected 4 bands (a.tif). To mend it: name the bands"
    assert str(DataError("cannot decode")) == "cannot decode"
    assert str(DataError("cannot decode", expected=0)) == "cannot decode: expected 0"


@pytest.mark.parametrize("kind", CmirError.__subclasses__())
def test_an_error_survives_the_way_from_a_worker(kind: type[CmirError]) -> None:
    error = kind("what", seen=1, expected=2, where="there", fix="this")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.seen, copy.fix) == (kind, str(error), 1, "this")


def test_the_tree_is_the_one_drawn() -> None:
    drawn = {word for word in (errors.__doc__ or "").split() if word.endswith("Error")}
    own = {kind.__name__ for kind in CmirError.__subclasses__() if kind.__module__ == "cmir.errors"}
    assert drawn == own | {"CmirError"}


def test_the_file_is_told_by_whoever_knows_it() -> None:
    error = DataError("cannot decode", seen="0 bytes", fix="send it again")
    assert str(error.at("a.wav")) == "cannot decode: seen 0 bytes (a.wav). To mend it: send it again"
    assert error.at("chunk 3").at("a.wav").where == "a.wav, chunk 3"
    assert error.at("a.wav").at("a.wav").where == "a.wav"
    assert error.at("b/a.wav").at("a.wav").where == "a.wav, b/a.wav"
    assert isinstance(error.at("a.wav"), DataError)
