"""From clips to a video, from streams to one result."""
