"""The suites by name: the question each answers and the file that holds it."""

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent


class Suite(NamedTuple):
    """One suite.

    Attributes:
        file: Its file in this folder.
        question: What it answers.
        every_backend: Whether the backend matters to it; where it does not, a quick run takes the first alone.
    """

    file: str
    question: str
    every_backend: bool = True


SUITES: dict[str, Suite] = {
    "accuracy": Suite("test_accuracy.py", "Is it the same model on each backend?"),
    "training": Suite("test_training_step.py", "How fast is a training step?"),
    "rollout": Suite("test_rollout.py", "How fast is a cached open-loop rollout?"),
    "forward": Suite("test_forward.py", "How fast is a forward pass?"),
    "tokenizing": Suite("test_tokenizing.py", "How fast are values encoded and targets binned?"),
    "windows": Suite("test_windows.py", "How fast are windows cut and batches made?", every_backend=False),
    "startup": Suite("test_start_up.py", "How long until the first answer?"),
    "memory": Suite("test_memory.py", "How much memory do a training step and a rollout take?"),
}
"""In the order in which they run and are reported."""
