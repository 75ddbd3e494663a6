"""split_table: train, validation and test rows without leaking one into another."""
