"""Exact ONNX export in float64, and feeding rows to the exported graph."""
