"""Rules of evaluation: pure, without I/O."""
