"""Trajectory data: readers of outside formats, the memory-mapped store, windows and mixtures."""
