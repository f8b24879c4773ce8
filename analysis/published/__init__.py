"""Tables printed in the paper, as data: published, not reproduced."""
