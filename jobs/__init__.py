"""Puts runs on machines and says how they are: plan, prepare, submit, status, cancel, logs."""
