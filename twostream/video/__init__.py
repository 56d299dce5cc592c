"""One video file: its id, and its frames."""
