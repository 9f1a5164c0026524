"""Where a model comes from and under what licence: its card's front matter and last section."""

import re

from trajworld.card.markdown import code
from trajworld.card.run import RunRecord
from trajworld.card.stretches import own_versions
from trajworld.errors import UsageError
from trajworld.models.names import said_briefly
from trajworld.text import listed
from trajworld.weights import shipped_models

_TAGS = ("world-model", "reinforcement-learning", "offline-rl", "robotics", "trajectories", "keras-3")
_PAPER = "Yin et al., *Trajectory World Models for Heterogeneous Environments*, ICML 2025, [arXiv 2502.01366](https://arxiv.org/abs/2502.01366)"
# A name of the hub's list, and nothing else that YAML or Markdown would read.
_LICENCE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.+-]*[A-Za-z0-9+])?")
_OWN_LICENCE = "mit"


def licence_of(licence: str, name: str) -> str:
    """The licence of a model that is called ``name``: the given one, else this project's if it ships, else empty.

    Raises:
        UsageError: What is given is no name of a licence.
    """
    if licence and not _LICENCE.fullmatch(licence):
        raise UsageError(
            f"a licence is named as on the Hugging Face hub, as in mit or apache-2.0, not {licence!r}"
        )
    return licence or (_OWN_LICENCE if name in shipped_models() else "")


def front_matter(licence: str) -> str:
    """What the hub reads; it says nothing of a licence where that is empty."""
    tags = "\n".join(f"  - {tag}" for tag in _TAGS)
    licensed = f"license: {licence}\n" if licence else ""
    return f"---\nlibrary_name: keras\n{licensed}tags:\n{tags}\n---"


def source_section(record: RunRecord, licence: str, name: str) -> str:
    """Where the weights and the architecture come from, and under what licence, as far as it is known."""
    versions = listed([code(version) for version in own_versions(record.stretches)])
    parts = [f"Licence: {licence}."] if licence else []
    parts.append(f"Made with TrajWorld {versions}. The architecture and its training are those of {_PAPER}.")
    if record.config.init:
        parts.append(f"Training began with the weights of {code(said_briefly(record.config.init))}.")
    if name in shipped_models():
        parts.append("The weights are this project's own.")
    return f"## {'Licence and source' if licence else 'Source'}\n\n{' '.join(parts)}"
