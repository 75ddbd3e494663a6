"""What a search leaves: the page, the table of trials, and the runs in MLflow."""
