"""Learning from tables: the same fit, export and parity gate for every step that trains a model."""
