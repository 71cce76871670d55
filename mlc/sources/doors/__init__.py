"""One file for each kind of source: whether it is one, and the Original behind it."""
