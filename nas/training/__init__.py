"""The loop: Lightning modules that train, search and retrain, and what they log."""
