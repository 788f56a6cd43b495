"""longhaul evaluation service."""
