"""Weights on disk: where they lie, how they get there, and what is checked before anything may load them."""
