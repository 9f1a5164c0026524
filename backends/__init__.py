"""What Keras does not offer, one module per framework; each implements :class:`trajworld.backend.Backend`."""
