"""From a user's own clips to a recognizer: what is there, what is done with it and why, and the commands that do it."""
