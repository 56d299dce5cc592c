"""Recognizers as ONNX files: each stream alone, and all of it in one file, flow included."""
