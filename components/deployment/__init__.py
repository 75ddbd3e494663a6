"""Serving models and checking what is served."""
