"""Zero-shot prediction (DESIGN §6): a pre-trained model in environments it never saw, against the length of context."""
