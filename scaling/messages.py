"""Where warnings of the library go: a program that a user starts prints them on stderr."""

import logging
import sys

PACKAGES = ("scaling", "xvla", "jobs", "analysis")


class _Stderr(logging.Handler):
    """Prints a line a record; asks for stderr each time, as a caller may have replaced it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"{record.levelname.lower()}: {record.getMessage()}", file=sys.stderr, flush=True)


_HANDLER = _Stderr(logging.WARNING)


def print_warnings() -> None:
    """Print what our packages warn of; others keep their own loggers."""
    for name in PACKAGES:
        logger = logging.getLogger(name)
        if _HANDLER not in logger.handlers:
            logger.addHandler(_HANDLER)
