"""Quick experiments on a network as it is: how far its features go, and which learning rate it bears."""
