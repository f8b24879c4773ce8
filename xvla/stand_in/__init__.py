"""The small encoder that stands in for Florence-2: its frames, its targets, its training."""
