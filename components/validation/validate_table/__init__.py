"""validate_table: every check of a contract in one pass over the table."""
