"""What Keras leaves open, one module a framework; each implements :class:`trajworld.backend.Backend`."""
