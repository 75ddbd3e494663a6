"""Checking a deployed model with real requests."""
