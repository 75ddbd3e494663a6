"""Searching for parameters."""
