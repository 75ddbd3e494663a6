"""require_verdict: stops the pipeline when a gate said no."""
