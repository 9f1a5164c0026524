"""What a zero-shot study takes where nothing else is asked for; no framework is imported."""

CONTEXTS = (1, 2, 3, 5, 7, 10, 13, 16, 19)
"""Lengths of context for a window of 20 rows; see :func:`default_contexts` for others."""

WINDOWS = 1024
"""Of each environment, that are predicted."""

TRANSITIONS = 20_000
"""Of each environment, where the study collects its own: as ``collect-corpus`` does, so the same episodes."""


def default_contexts(window: int) -> tuple[int, ...]:
    """The lengths of context for a model of a window of T rows: those of ``CONTEXTS`` that it can take, and T - 1."""
    return (*(context for context in CONTEXTS if context < window - 1), window - 1)
