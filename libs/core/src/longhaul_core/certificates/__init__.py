"""Certificates of an installation that brings none: an authority made once, and a certificate a service."""
