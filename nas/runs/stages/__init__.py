"""The stages of a run: each is one command."""
