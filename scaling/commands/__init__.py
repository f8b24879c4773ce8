"""The commands behind the verbs of `scaling`; with cli.py the only code that sees every package."""
