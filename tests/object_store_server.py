"""`python -m tests.object_store_server PORT`: moto's S3 server, of which requests that write are answered in turn.

By itself it looks whether the condition of a put holds and then puts, with nothing to keep another thread from putting
in between. Real stores do both in one step.
"""

import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


def one_at_a_time(application: Application) -> Application:
    """The application, whose requests that write wait for one another."""
    turn = threading.Lock()

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return application(environ, start_response)
        with turn:
            return list(application(environ, start_response))

    return answer


if __name__ == "__main__":
    server = one_at_a_time(DomainDispatcherApplication(create_backend_app))
    run_simple("127.0.0.1", int(sys.argv[1]), server, threaded=True, request_handler=MotoRequestHandler)
