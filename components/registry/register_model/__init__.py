"""register_model: a model becomes a version in the registry, with where it comes from."""
