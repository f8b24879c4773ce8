"""The help text of every verb and of every action on data."""

import re
import sys

import pytest
from golden_files import ASSETS, WRITING, call_done, check_names, check_text

HELP = ASSETS / "help"
MADE_WITH = HELP / "python.txt"
VERB = re.compile(r"^    ([a-z][a-z-]*)(?:  |$)", re.MULTILINE)


def _verbs(text: str) -> list[str]:
    """Return the verbs that a help text lists."""
    return VERB.findall(text[text.index("positional arguments:") : text.index("options:")])


def commands() -> list[tuple[str, ...]]:
    """Return the words of every command that has a help text."""
    verbs = [(verb,) for verb in _verbs(call_done("--help"))]
    actions = [("data", action) for action in _verbs(call_done("data", "--help"))]
    return [(), *verbs, *actions]


COMMANDS = commands()


def _name(words: tuple[str, ...]) -> str:
    return "-".join(("scaling", *words))


def test_no_verb_came_or_went() -> None:
    if WRITING:
        HELP.mkdir(parents=True, exist_ok=True)
        for path in HELP.glob("*.txt"):
            path.unlink()
        MADE_WITH.write_text(_python() + "\n")
        return
    goldens = [path.stem for path in HELP.glob("scaling*")]
    check_names("commands", goldens, [_name(words) for words in COMMANDS])


@pytest.mark.parametrize("words", COMMANDS, ids=_name)
def test_help_says_what_it_said(words: tuple[str, ...]) -> None:
    text = call_done(*words, "--help")
    if WRITING or MADE_WITH.read_text().strip() == _python():
        check_text(f"help/{_name(words)}.txt", text)
        return
    # argparse of another Python lays the same words out in another way.
    assert text.split() == (HELP / f"{_name(words)}.txt").read_text().split()


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
