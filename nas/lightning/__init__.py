"""Searches inside a Lightning Trainer of your own."""

from nas.lightning.arch_batches import split_loader
from nas.lightning.search_callback import SearchCallback

__all__ = ["SearchCallback", "split_loader"]
