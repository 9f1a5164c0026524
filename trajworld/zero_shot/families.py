"""The families of unseen environments that are reported together."""

from fnmatch import fnmatchcase

_FAMILIES = (
    ("pendulum, unseen gravity", ("gymnasium/Pendulum-*",)),
    ("cart with three poles", ("dm_control/cartpole-three_poles*",)),
    ("unseen robots", ("robot/*",)),
    (
        "hopper, walker2d, half-cheetah",
        ("gymnasium/Hopper-*", "gymnasium/Walker2d-*", "gymnasium/HalfCheetah-*"),
    ),
)


def family_of(environment: str, source: str) -> str:
    """The family of an environment; its ``source`` in the corpus's table where it is of none that is known here."""
    for family, patterns in _FAMILIES:
        if any(fnmatchcase(environment, pattern) for pattern in patterns):
            return family
    return source
