"""The roof: the `scaling` command. A verb is a function; what it does lies in the rooms below."""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 failed, 2 user's mistake (one line on stderr)."""
    from scaling.cli.parser import main as run

    return run(argv)
