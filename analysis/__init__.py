"""Tables of runs in; scaling laws, intervals, figures and pages out."""
