"""Trained networks of any kind as spaces: which channels can be cut, and the network with these choices."""
