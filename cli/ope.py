"""``trajworld ope``: off-policy evaluation."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from trajworld.backend import require_framework
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.ope_settings import FittedQSettings, OpeSettings
from trajworld.files import refuse_existing

from .commands import File, Folder, Json, With, command, parameters_of
from .output import print_json, print_table, warn_of_endless
from .progress import job_progress

if TYPE_CHECKING:
    import pandas as pd

SIMULATOR = "simulator"


@command(params=parameters_of(OpeSettings, leave_out=("compact",)))
def ope(
    model_names: Annotated[tuple[str, ...], With(metavar="MODEL...")],
    spec: Annotated[str, With(metavar="DATASET")],
    *,
    policies: Annotated[tuple[Path, ...], With(metavar="PATH", required=True)] = (),
    fitted_q: Annotated[int, click.IntRange(min=0)] = 0,
    truth: File | None = None,
    simulate: Annotated[int, click.IntRange(min=2)] | None = None,
    members: bool = False,
    ranges: Annotated[str, With(metavar="DATASET")] | None = None,
    as_json: Json = False,
    output: Folder | None = None,
    **options: Any,
) -> None:
    """Estimate the discounted returns of policies by rollouts inside MODEL (off-policy evaluation).

    Rollouts begin in the first states of the episodes of DATASET, the behaviour dataset, and are clipped to its range.
    No simulator is needed; with true values (--truth, --simulate) the estimates are compared with them. MODEL and
    DATASET are what `trajworld evaluate` takes, policies what `trajworld policy` reads. The MODEL `simulator` is the
    environment itself. Of several models, such as the same training with several seeds, the estimate is the mean, and
    its interval holds their spread.

    Distances are those of the rows in the model from the nearest rows of the data: 1 is as far as real rows are from
    one another. A rollout has left the data where a state of it is further from them than any real one. At most 2,000
    rows of each policy are used, and 5,000 of the data.

    \b
    Examples:
      trajworld ope runs/hopper/best.keras hopper_medium-v2.hdf5 --policies dope/policies/hopper_online_3.pkl
      trajworld ope runs/hopper/best.keras dope/hopper-v5-medium-v0 --policies zoo/hopper
      trajworld policy evaluate policies/*.npz --episodes 100 -o truth.json
      trajworld ope seed0/best.keras seed1/best.keras hopper_medium-v2.hdf5 --policies dope/policies
      trajworld ope runs/hopper/best.keras mine-v0 --policies policies --truth truth.json --fitted-q 200 -o ope

    Options:
        policies: A policy's file, a folder of them, or one that ships (zoo/hopper, zoo/hopper-03); may be repeated.
            Those of other robots are left out.
        fitted_q: Iterations of fitted Q evaluation beside it, without model or horizon (200 is usual); 0 for none.
        truth: True values, as `trajworld policy evaluate -o` writes them; those that ship for zoo policies.
        simulate: Find the true values by this many episodes of each policy.
        members: Take each elite of an MLP ensemble as its own model.
        ranges: As in `trajworld evaluate`.
        output: Make this folder: results.json, tables and a picture.
    """
    require_framework()
    settings = OpeSettings(**options)
    fitting = FittedQSettings(settings.discount, fitted_q, seed=settings.seed) if fitted_q else None
    if truth is not None and simulate is not None:
        raise UsageError("--truth and --simulate are two ways to the same: give one")
    refuse_existing(output)
    import pandas as pd

    from trajworld.data.resolve import open_dataset
    from trajworld.environments.open import open_environment
    from trajworld.evaluation import ope as core
    from trajworld.evaluation.imagined import initial_states
    from trajworld.evaluation.ope_metrics import method_metrics
    from trajworld.evaluation.true_values import read_true_values, simulated_values
    from trajworld.policies.files import policy_files, read_policy, zoo_truth
    from trajworld.study.tables import terminal

    files = policy_files(policies)
    with job_progress("Converting") as progress:
        dataset = open_dataset(spec, progress=progress)
    every = {name: read_policy(path) for name, path in files.items()}
    found = core.of_robot(every, dataset.environment) or every
    if others := len(every) - len(found):
        click.echo(f"{others} policies of other robots than {dataset.environment} are left out", err=True)
        files = {name: files[name] for name in found}
    core.check_policies(found, dataset)
    settings, limit = core.within_limit(settings, dataset.environment), core.time_limit(dataset.environment)
    known = (
        None if truth is None else read_true_values(truth, list(found), settings, limit, dataset.environment)
    )
    if truth is None and simulate is None and (shipped := zoo_truth(files.values())):
        try:
            known, truth = (
                read_true_values(shipped, list(found), settings, limit, dataset.environment),
                shipped,
            )
        except TrajWorldError as error:
            click.echo(f"No true values: {error}", err=True)
    simulated = SIMULATOR in model_names
    if simulated and (len(model_names) > 1 or members):
        raise UsageError(f"{SIMULATOR} stands alone: it is the environment itself")
    if simulate is not None or simulated:
        open_environment(dataset.environment).close()
    if not simulated:
        warn_of_endless(dataset, dataset.environment)
    if simulated:
        starts = initial_states(dataset, settings.states, settings.seed)
        origin = "the simulator's own state"
        with job_progress("Simulating", "episodes") as progress:
            table = simulated_values(dataset.environment, found, starts, settings, len(starts), progress)
        table = table.drop(columns="standard error")
    else:
        from trajworld.evaluation.ranges import named_ranges, support_for

        models = [one for name in model_names for one in _loaded(name, members)]
        with job_progress("Converting") as progress:
            chosen = named_ranges(ranges, models, progress=progress)
        supports = [support_for(model, dataset, chosen) for model in models]
        origin = "; ".join(dict.fromkeys(support.origin for support in supports))
        with job_progress("Imagining", "rollouts") as progress:
            read = [(model, support.support) for model, support in zip(models, supports, strict=True)]
            table = core.imagined_values(read, dataset, found, settings, progress)
    table.insert(0, "method", "model")
    if fitting is not None:
        with job_progress("Fitting", "iterations") as progress:
            fitted = core.fitted_values(dataset, found, settings, fitting, progress)
        table = pd.concat([table, fitted.assign(method="fitted Q")], ignore_index=True)
    if simulate is not None:
        with job_progress("Simulating", "episodes") as progress:
            real = simulated_values(dataset.environment, found, None, settings, simulate, progress)
        known = real.rename(columns={"estimate": "truth", "standard error": "truth error"})
        for name, problem in zip(real["policy"], real["problem"], strict=True):
            if problem:
                click.echo(f"Warning: {name}: {problem}", err=True)
    metrics = None
    if known is not None:
        table = table.merge(known[["policy", "truth", "truth error"]], on="policy", how="left")
        metrics = method_metrics(table, settings.seed)
    results = {
        "kind": "off-policy evaluation",
        "models": list(model_names),
        "dataset": dataset.name,
        "ranges": origin,
        "settings": {
            **vars(settings),
            "fitted_q": fitted_q,
            "simulate": simulate,
            "truth": str(truth or ""),
            "members": members,
            "files": {name: str(path) for name, path in files.items()},
        },
        "policies": json.loads(table.to_json(orient="records")),
        "metrics": None if metrics is None else json.loads(metrics.to_json(orient="records")),
    }
    if output is not None:
        _write(output, results, table, metrics)
    if as_json:
        return print_json(results)
    problems = table["problem"].fillna("") if "problem" in table else pd.Series("", table.index)
    shown = table.drop(columns="problem", errors="ignore").dropna(axis=1, how="all")
    print_table(terminal(f"Discounted returns (γ = {settings.discount:g}) on {dataset.name}", shown))
    for name, problem in zip(table["policy"], problems, strict=True):
        if problem:
            click.echo(f"{name}: {problem}")
    if metrics is not None:
        print_table(terminal("Estimates beside the true values", metrics))
    click.echo(f"Read over {origin}.")


def _loaded(name: str, members: bool) -> list[Any]:
    """A model, or its members."""
    from trajworld.models.names import load

    model = load(name)
    if members and model.kind != "mlp-ensemble":
        raise UsageError(f"{name} is no MLP ensemble: --members is for one")
    return model.alone() if members else [model]


def _write(
    output: Path, results: dict[str, Any], table: "pd.DataFrame", metrics: "pd.DataFrame | None"
) -> None:
    from trajworld.charts import Look, save_figure, scatter
    from trajworld.files import atomic_folder, write_json

    with atomic_folder(output) as folder:
        write_json(folder / "results.json", results)
        table.to_csv(folder / "policies.csv", index=False)
        if metrics is not None:
            metrics.to_csv(folder / "metrics.csv", index=False)
            picture = scatter(table, Look(), x="truth", y="estimate", series="method")
            save_figure(picture, folder / "estimates.png")
