"""What is known about each video: split, class, number of frames."""
