"""From a raw table to a served, registered model."""
