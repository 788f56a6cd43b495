"""Training data: a pure function from the global sample index to tokens."""
