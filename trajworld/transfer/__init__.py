"""Transfer: what a pre-trained model saves in data and steps on embodiments that it never saw."""
