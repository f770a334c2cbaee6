"""Many searches: seeds and settings of one configuration, each in its own run folder."""
