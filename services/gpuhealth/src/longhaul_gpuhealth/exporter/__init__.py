"""An exporter for machines without GPUs: plays a written scenario in the format of dcgm-exporter."""
