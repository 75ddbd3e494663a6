"""One page that tells what a run did."""
