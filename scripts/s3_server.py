"""A server of S3's protocol for the tests: moto, in memory.

    python scripts/s3_server.py PORT

moto looks whether an object is there (`If-None-Match: *`) and writes it in two steps; S3 does it in one, and the commits of
several writers depend on that. So whatever changes something waits for its turn here.
"""

import logging
import sys
import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple


def main():
    application = DomainDispatcherApplication(create_backend_app)
    turn = threading.Lock()

    def one_change_at_a_time(environ, start_response):
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return application(environ, start_response)
        with turn:
            # The body is read and the object stands when this returns.
            return list(application(environ, start_response))

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    run_simple("127.0.0.1", int(sys.argv[1]), one_change_at_a_time, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main()
