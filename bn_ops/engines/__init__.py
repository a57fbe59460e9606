"""The engines that run a network over a stream: onnxruntime and torch."""
