"""The demo: real flights through the compiled pipeline."""
