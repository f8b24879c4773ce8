"""How a law is fitted: losses and derivatives, starts, descent, and the search that joins them."""
