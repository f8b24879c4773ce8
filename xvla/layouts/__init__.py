"""Checkpoint layouts: the authors', LeRobot's and ours, their config.json and tensor names."""
