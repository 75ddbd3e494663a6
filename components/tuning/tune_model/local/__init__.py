"""The local engine: Optuna or our own samplers choose, supervised processes do the trials, a journal keeps them."""
