"""Everything that knows MLflow: publishing run folders, the store, registered checkpoints."""
