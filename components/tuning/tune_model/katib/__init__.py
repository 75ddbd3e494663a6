"""The cluster engine: an Experiment of Katib, rendered, launched, followed and read."""
