"""Forecasts of a search: costs, number of architectures, memory, and whether targets can be met."""
