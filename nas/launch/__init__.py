"""Many searches: seeds and settings of one configuration, each a run of its own."""
