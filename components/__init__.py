"""Reusable Kubeflow Pipelines components, loaded lazily: `from kfp_foundry.components import train_model`."""
