"""The world models, each written once in Keras 3 ops, and what they share: tokenizer, layers, presets, files."""
