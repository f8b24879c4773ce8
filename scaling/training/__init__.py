"""What a run does: one attempt from its RunSpec to DONE, the loop, its checkpoints and metrics."""
