"""Simulated robot demonstrations: domains, scripted expert, recorder (optional extra `sim`)."""
