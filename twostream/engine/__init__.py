"""What runs a network, and what a run keeps."""
