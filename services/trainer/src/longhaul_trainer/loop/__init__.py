"""The training loop: step, validation, guard, report."""
