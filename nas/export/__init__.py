"""A discovered network in files that anyone can use without this framework."""
