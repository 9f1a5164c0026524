"""The whole story on one machine: collect, pre-train, fine-tune on an unseen embodiment, compare, report."""
