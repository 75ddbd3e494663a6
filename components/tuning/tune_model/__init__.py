"""Searches the parameters of a training, with Katib or on this machine."""
