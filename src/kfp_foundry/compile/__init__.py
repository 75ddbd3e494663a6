"""Pipelines to YAML: the same bytes every time, and the images of a release."""
