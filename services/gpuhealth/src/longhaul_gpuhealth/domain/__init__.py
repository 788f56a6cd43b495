"""longhaul gpuhealth service."""
