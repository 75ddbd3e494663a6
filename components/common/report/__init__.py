"""One look for every step's report: self-contained HTML, no network at view time."""
