"""Motion from one frame to the next."""
