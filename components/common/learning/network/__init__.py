"""Neural networks on tables, with PyTorch: on one process or on several ranks."""
