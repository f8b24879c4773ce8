"""Everything that knows Optuna: asking for points, pruning, scoring, the answer."""
