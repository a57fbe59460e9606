"""Segments cut from onnxruntime's own optimized graph."""
