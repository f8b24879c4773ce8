"""Hands runs to Slurm: scripts, submissions, the queue, and what a job does before and after."""
