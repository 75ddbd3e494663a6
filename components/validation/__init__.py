"""What a table must be, and whether it is."""
