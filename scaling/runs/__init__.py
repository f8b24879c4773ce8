"""The noun run: its folder, the files in it, and what they say; nothing here loads torch."""
