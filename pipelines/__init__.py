"""Pipelines, ready to run and to upload."""
