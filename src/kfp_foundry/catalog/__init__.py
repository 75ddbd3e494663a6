"""What components and pipelines there are, read from their source: fast, and without importing one of them."""
