"""Where words of the library go: a program that a user starts prints them on stderr."""

import logging
import sys

PACKAGES = ("scaling", "xvla", "jobs", "analysis")


class _Stderr(logging.Handler):
    """Prints a line a record; asks for stderr each time, as a caller may have replaced it."""

    def emit(self, record: logging.LogRecord) -> None:
        news = record.levelno < logging.WARNING
        prefix = "" if news else f"{record.levelname.lower()}: "
        print(f"{prefix}{record.getMessage()}", file=sys.stderr, flush=True)


_HANDLER = _Stderr()


def print_messages(level: int = logging.WARNING) -> None:
    """Print what our packages say from a level on; others keep their own loggers."""
    _HANDLER.setLevel(level)
    for name in PACKAGES:
        logger = logging.getLogger(name)
        if level < logging.WARNING:  # warnings pass by default
            logger.setLevel(level)
        if _HANDLER not in logger.handlers:
            logger.addHandler(_HANDLER)
