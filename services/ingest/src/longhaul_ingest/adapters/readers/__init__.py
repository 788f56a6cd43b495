"""Readers: from the bytes of a source to records, reading around what is damaged."""
