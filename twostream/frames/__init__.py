"""The images of a video on disk."""
