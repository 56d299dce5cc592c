"""What runs the networks of a recognizer: torch, or onnxruntime; and networks as ONNX files."""
