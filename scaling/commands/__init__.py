"""The room's old name: what running executors of version 0.1 still start. It goes with 0.3."""
