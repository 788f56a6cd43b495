"""The `longhaul` command."""
