"""Environments by name."""

from trajworld.environments.interface import Environment
from trajworld.environments.names import DM_CONTROL, EnvironmentName, parse_name


def open_environment(name: str | EnvironmentName) -> Environment:
    """Make the environment of a name (the grammar is that of ``trajworld.environments.names``)."""
    parsed = parse_name(name) if isinstance(name, str) else name
    # Imported here: simulators are slow to import and one of them is an optional dependency.
    if parsed.family == DM_CONTROL:
        from trajworld.environments.dm_control_environment import DmControlEnvironment

        return DmControlEnvironment(parsed)
    from trajworld.environments.gymnasium_environment import GymnasiumEnvironment

    return GymnasiumEnvironment(parsed)
