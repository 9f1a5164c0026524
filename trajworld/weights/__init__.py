"""The pre-trained models that ship with the package: each ``NAME.keras``, with its card ``NAME.md`` beside it.

The predecessor of a model that was replaced, ``NAME@1``, ships for one release more.

A finished pre-training run becomes a shipped model by two commands::

    cp RUN/best.keras trajworld/weights/trajworld-small.keras
    trajworld checkpoint card RUN --name trajworld-small -o trajworld/weights/trajworld-small.md
"""

from pathlib import Path


def shipped_models() -> dict[str, Path]:
    """The file of each model that ships, by its name."""
    return {file.stem: file for file in sorted(Path(__file__).parent.glob("*.keras"))}


def shipped_card(name: str) -> Path | None:
    """The card of a shipped model, Markdown; None where there is none."""
    return next((card for card in Path(__file__).parent.glob("*.md") if card.stem == name), None)
