"""How good predictions are: metrics, their intervals, and the rows on which they are worse. NumPy only; tested against scikit-learn."""
