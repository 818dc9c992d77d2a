"""Replay recorded Linux memory-management traces through two engines and diff them."""

__version__ = "0.1.0"
