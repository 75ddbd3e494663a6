"""ingest_table: any table, from anywhere, as a Dataset."""
