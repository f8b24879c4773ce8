"""Turns a RunSpec into a finished run; the declarations here load without torch."""
