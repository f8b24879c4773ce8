"""What a report is made of: its words, verdicts, sections, figures and the page itself."""
