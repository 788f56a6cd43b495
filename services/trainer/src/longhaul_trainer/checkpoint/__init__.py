"""Saves and restores a run: safetensors of each rank's own shards, JSON for the rest, a digest a part."""
