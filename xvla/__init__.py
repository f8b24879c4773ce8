"""The X-VLA policy and its data; knows nothing of studies."""
