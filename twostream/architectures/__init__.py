"""Networks of others, a family a module: how each is built, with random weights."""
