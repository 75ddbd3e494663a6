"""Trains a model on a table and writes it with an exact ONNX graph."""
