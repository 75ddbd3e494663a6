"""Compares a new model with the champion on the same rows."""
