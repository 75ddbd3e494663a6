"""The artifacts that travel between steps: Dataset, Model, Verdict, Endpoint."""
