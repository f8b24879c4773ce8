"""Closed-loop success: rates with intervals, laws of failure, correlation with the error."""
