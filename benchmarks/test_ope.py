"""How fast are several policies evaluated inside a model, to one width of interval, beside the published schedule?

By the published schedule (Yin et al. 2025) every rollout is carried to the horizon, one policy at a time, from as many
initial states for each. Here rollouts that have ended leave the batch, all policies share it, fewer rollouts continue
as the discount fades, and states are added until the interval is as narrow as the published schedule's widest, which is
what it guarantees. Both are the same code, with these options on and off::

    pytest -s benchmarks/test_ope.py --model runs/hopper/best.keras --dataset dope/hopper-v5-medium-replay-v0 \
        --policies dope/hopper
"""

import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from trajworld.data.resolve import open_dataset
from trajworld.evaluation.ope import imagined_values
from trajworld.evaluation.ope_settings import OpeSettings
from trajworld.evaluation.ranges import support_for
from trajworld.models.names import load
from trajworld.policies.files import read_policies
from trajworld.text import number


def test_ope(request: pytest.FixtureRequest) -> None:
    """Prints seconds and processor seconds of both, without compiling, and of compiling."""
    given = {name: request.config.getoption(f"--{name}") for name in ("model", "dataset", "policies")}
    if not all(given.values()):
        pytest.skip("give --model, --dataset and --policies")
    model, dataset = load(given["model"]), open_dataset(given["dataset"])
    policies = read_policies([Path(path) for path in given["policies"]])
    models = [(model, support_for(model, dataset).support)]
    asked = {name: request.config.getoption(f"--{name}") for name in ("horizon", "states", "sample")}
    ours = OpeSettings(**asked)
    published = replace(ours, compact=False, negligible=0.0, fading=False, batch_size=asked["states"])

    def measure(settings: OpeSettings) -> tuple[pd.DataFrame, dict[str, float]]:
        began = time.perf_counter(), time.process_time()
        table = imagined_values(models, dataset, policies, settings)
        seconds = time.perf_counter() - began[0], time.process_time() - began[1]
        half = table["estimate high"] - table["estimate"]
        taken = {"seconds": seconds[0], "processor seconds": seconds[1], "states": table["states"].mean()}
        return table, taken | {"steps": table["steps"].mean(), "half width": half.max()}

    found: dict[str, dict[str, float]] = {}
    for name, settings in (("published", published), ("here", ours)):
        _, found[f"{name}, compiling"] = measure(replace(settings, horizon=1))
    theirs, found["published"] = measure(published)
    narrow = replace(ours, half_width=found["published"]["half width"], states=8 * ours.states)
    narrowed, found["as narrow"] = measure(narrow)
    assert found["as narrow"]["half width"] <= narrow.half_width
    print("\n", theirs.merge(narrowed, on="policy", suffixes=("", " (as narrow)")).map(_text).to_string())
    for row in found.values():
        row["times"] = found["published"]["processor seconds"] / row["processor seconds"]
    print("\n", pd.DataFrame(found).T.map(number).to_string())
    # The same estimates: over many steps rounding alone makes rollouts differ.
    error = sum(((one["estimate high"] - one["estimate"]) / 1.96) ** 2 for one in (theirs, narrowed)) ** 0.5
    assert ((narrowed["estimate"] - theirs["estimate"]).abs() <= 4 * error + 1e-3).all()


def _text(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)
