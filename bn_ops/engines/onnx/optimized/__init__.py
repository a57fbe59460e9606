"""Run segments of the graph that onnxruntime optimizes a model to."""
