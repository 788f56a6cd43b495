"""Python SDK, recipes and the longhaul command."""
