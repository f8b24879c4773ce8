"""The local executor: runs of a study as processes of this machine."""
