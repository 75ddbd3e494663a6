"""infer_contract: the data contract of a table, found from its rows or loaded."""
