"""What the report is framed in: the page with its style and its script."""
