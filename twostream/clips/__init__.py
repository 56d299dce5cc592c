"""What a network sees of a video."""
