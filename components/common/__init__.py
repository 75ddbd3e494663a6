"""What the components share: contract, artifacts, errors, tracking, reports."""
