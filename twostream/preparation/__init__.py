"""Videos to frames and flow on disk, and checks of them."""
