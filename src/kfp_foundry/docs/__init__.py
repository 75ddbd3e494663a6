"""The pages and files that are generated from the code."""
