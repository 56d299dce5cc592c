"""From a network and the videos of a split to a score file, and what it says."""
