"""From a validated table to rows a model learns from."""
