"""longhaul corpus service."""
