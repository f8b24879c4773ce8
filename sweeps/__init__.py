"""Studies: each module declares STUDY and nothing else; copy one to make your own."""
