"""Deploying a model."""
