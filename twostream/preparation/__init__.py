"""From videos to frames and flow on disk, and checks of them."""
