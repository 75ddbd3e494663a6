"""The model server: KServe V1 and V2 REST over an exact ONNX model."""
