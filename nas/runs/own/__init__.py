"""Searches in training code of the user: their costs, their run folders and what is read from these."""
