"""The command line: `python -m app` serves, `python -m app healthcheck` asks the running service how it is."""

import argparse
import gc
import logging
import os
import signal
import sys

from app import __version__
from app.healthcheck import healthcheck


def main() -> int:
    """Run a command. Exit status: 0; 1 if the service cannot start or is not well; 2 for a wrong setting."""
    # From the first moment, since process 1 of a container ignores a signal that has no handler.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    parser = argparse.ArgumentParser(prog="geoip", description="A geo-IP API. Its settings are environment variables.")
    parser.add_argument(
        "command",
        nargs="?",
        choices=["serve", "healthcheck"],
        default="serve",
        help="serve (the default), or ask the running service how it is",
    )
    parser.add_argument("--version", action="version", version=__version__)
    if parser.parse_args().command == "healthcheck":
        return healthcheck()
    gc.disable()  # until the start is over: the collector would add a tenth to it
    from app.server import serve  # the health check does without it: 0.3 s and 35 MB

    return serve()


def _leave(*_: object) -> None:
    """Exit at once, also after uvicorn's own end: a thread that hangs in a name lookup would delay a normal exit."""
    logging.shutdown()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
