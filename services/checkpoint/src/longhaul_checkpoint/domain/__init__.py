"""Rules of the checkpoint store: pure, without I/O."""
