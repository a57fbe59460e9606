"""ONNX files: loading, writing, digests, external data, sessions."""
