"""What to do where a store's answer is cut off in its middle: ask again, a few times, with growing pauses.

All else that passes (no connection, 5xx, time-outs) the clients mend themselves, see storage. A cut answer the AWS SDK
in pyarrow and the listings of Lance's object store give up at once, so it is mended here, around calls that may be made
twice.
"""

from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

import tenacity

ATTEMPTS: Final = 5
_CUT: Final = ("request or response body error", "Failed to flush response stream")  # of Lance, of pyarrow

Given = ParamSpec("Given")
Result = TypeVar("Result")


def is_cut(error: BaseException) -> bool:
    """True where a store's answer was cut off while it was read."""
    return isinstance(error, OSError) and any(words in str(error) for words in _CUT)


def patient(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """The function, called again where an answer was cut off, `ATTEMPTS` times in all."""
    return tenacity.retry(
        retry=tenacity.retry_if_exception(is_cut),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=5),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        reraise=True,
    )(function)
