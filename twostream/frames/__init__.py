"""The images of videos on disk."""
