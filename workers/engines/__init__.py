"""Engines turn a `Run` into files and have heard of nothing else."""
