"""Getting tables in from wherever they are."""
