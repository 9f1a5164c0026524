"""The world models, each written once in Keras 3 ops, and what they share: tokenizer, layers, presets, files."""

from trajworld.backend import active_backend

# Before the first tensor is made: what a backend settles about memory must come before its threads start.
active_backend()
