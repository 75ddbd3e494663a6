"""What compiles, but fails or differs somewhere: rules over a compiled pipeline, each from a failure that was seen."""
