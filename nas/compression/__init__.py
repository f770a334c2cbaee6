"""A trained network, smaller: the whole way in one call."""
