"""What the tests of studies share: policies that balance a pendulum, data of these, models, and a model's error."""

from pathlib import Path

import numpy as np

from trajworld.collect.episodes import run_episodes
from trajworld.data.dataset import Dataset
from trajworld.data.store import write_store
from trajworld.evaluation.one_step import prediction_errors
from trajworld.evaluation.ranges import support_for
from trajworld.models.files import load_model, save_model
from trajworld.models.identity import Identity
from trajworld.models.interface import kind_of, new_model
from trajworld.policies.policy import Layer, Policy

PENDULUM = "gymnasium/InvertedPendulum-v5"


def balancer(gain: float) -> Policy:
    mean = Layer(gain * np.array([[0.3], [5.0], [0.5], [1.0]], np.float32), np.zeros(1, np.float32))
    bounds = np.full(1, 3, np.float32)
    noise = Layer(np.zeros((4, 1), np.float32), np.full(1, -1, np.float32))
    return Policy((), mean, noise, -bounds, bounds, squash=False, environment=PENDULUM)


def pendulum_data(folder: Path, *gains: float, count: int = 10, steps: int = 60) -> Dataset:
    """``count`` episodes of a :func:`balancer` of each gain."""
    rollouts = [one for gain in gains for one in run_episodes(PENDULUM, balancer(gain), 0, 0, count, steps)]
    episodes = [one.episode for one in rollouts]
    return write_store(folder, episodes, name="pendulum", source="", environment=PENDULUM)


def tiny_model(path: Path) -> Path:
    """A file of a TrajWorld of random weights."""
    save_model(new_model(kind_of("trajworld").preset("tiny"), Identity()), path)
    return path


def error_of(file: Path, test: Dataset, windows: int) -> float:
    """The mean absolute one-step error of a model of one dataset, in standard deviations."""
    model = load_model(file)
    found = prediction_errors(model, test, support=support_for(model, test), limit=windows)
    return found.table["all"]["normalised_mae"] or 0.0
