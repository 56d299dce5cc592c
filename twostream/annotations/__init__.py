"""What is known of each video: split, class, number of frames."""
