"""From a video to the answer: a trained recognizer, what it reads, and what it says."""
