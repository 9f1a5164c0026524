"""``trajworld ope``: off-policy evaluation."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trajworld.backend import require_framework
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.ope_settings import FittedQSettings, OpeSettings

from .options import FILE, PATH, field_options
from .output import print_table
from .progress import job_progress

if TYPE_CHECKING:
    import pandas as pd

    from trajworld.policies.policy import Policy


@click.command(
    short_help="Estimate how good policies are, without running them.",
    params=field_options(OpeSettings, leave_out=("compact",)),
)
@click.argument("model_name", metavar="MODEL")
@click.argument("spec", metavar="DATASET")
@click.option(
    "--policies",
    "sources",
    type=PATH,
    multiple=True,
    required=True,
    help="A policy's file, or a folder of them; may be given again.",
)
@click.option("--fitted-q", is_flag=True, help="Fitted Q evaluation too, which needs no model.")
@click.option("--truth", type=FILE, help="True values, as `trajworld policy evaluate -o` writes them.")
@click.option(
    "--simulate", type=click.IntRange(min=2), help="Find the true values by this many episodes each."
)
@click.option("--environment", default="", metavar="ENV", help="Where to simulate, if not the dataset's.")
@click.option("--ranges", metavar="DATASET", help="As of `trajworld evaluate`.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON, and nothing else.")
@click.option("-o", "--output", type=PATH, help="Make this folder: results.json, tables, a picture.")
def ope(
    model_name: str,
    spec: str,
    sources: tuple[Path, ...],
    fitted_q: bool,
    truth: Path | None,
    simulate: int | None,
    environment: str,
    ranges: str | None,
    as_json: bool,
    output: Path | None,
    **options: Any,
) -> None:
    """Estimate the discounted return of policies by rollouts inside MODEL (off-policy evaluation).

    Rollouts begin in first states of the episodes of DATASET, the behaviour dataset, and are kept to its range. No
    simulator is needed; with true values (--truth, --simulate) the estimates are compared with them. MODEL and DATASET
    are what `trajworld evaluate` takes, policies what `trajworld policy` reads.

    \b
    Examples:
      trajworld ope runs/hopper/best.keras hopper_medium-v2.hdf5 --policies dope/policies/hopper_online_3.pkl
      trajworld policy evaluate policies/*.npz --episodes 100 -o truth.json
      trajworld ope runs/hopper/best.keras mine-v0 --policies policies --truth truth.json --fitted-q -o ope
    """
    require_framework()
    settings = OpeSettings(**options)
    if truth is not None and simulate is not None:
        raise UsageError("--truth and --simulate are two ways to the same: give one")
    import pandas as pd

    from trajworld.data.resolve import open_dataset
    from trajworld.evaluation.ope import check_policies, imagined_values, method_metrics
    from trajworld.files import atomic_folder, write_json
    from trajworld.models.names import load
    from trajworld.study.tables import terminal

    policies = _policies(sources)
    with job_progress("Converting") as progress:
        dataset = open_dataset(spec, progress=progress)
        chosen = None if ranges is None else open_dataset(ranges, progress=progress)
    check_policies(policies, dataset)
    known = _read_truth(truth, policies) if truth is not None else None
    model = load(model_name)

    from trajworld.evaluation.one_step import support_for

    support = support_for(model, dataset, chosen)
    with job_progress("Imagining", "rollouts") as progress:
        table = imagined_values(model, dataset, support.support, policies, settings, progress)
    table.insert(0, "method", "model")
    if fitted_q:
        table = pd.concat([table, _fitted_q(dataset, policies, settings)], ignore_index=True)
    if simulate is not None:
        known = _simulated(policies, environment or dataset.environment, simulate, settings)
    metrics = None
    if known is not None:
        table["truth"] = table["policy"].map({name: value for name, (value, _) in known.items()})
        table["truth error"] = table["policy"].map({name: error for name, (_, error) in known.items()})
        metrics = method_metrics(table, settings.seed)
    results = {
        "kind": "trajworld off-policy evaluation",
        "model": model_name,
        "dataset": dataset.name,
        "ranges": support.origin,
        "settings": vars(settings),
        "policies": json.loads(table.to_json(orient="records")),
        "metrics": None if metrics is None else json.loads(metrics.to_json(orient="records")),
    }
    if output is not None:
        with atomic_folder(output) as folder:
            write_json(folder / "results.json", results)
            table.to_csv(folder / "policies.csv", index=False)
            if metrics is not None:
                from trajworld.charts import Look, save_figure, scatter

                metrics.to_csv(folder / "metrics.csv", index=False)
                save_figure(
                    scatter(table, Look(), x="truth", y="estimate", series="method"), folder / "estimates.png"
                )
    if as_json:
        click.echo(json.dumps(results, indent=2))
        return
    shown = table.drop(columns=["problem"]).dropna(axis=1, how="all")
    print_table(terminal(f"Discounted returns (γ = {settings.discount:g}) on {dataset.name}", shown))
    for _, row in table[table["problem"].fillna("") != ""].iterrows():
        click.echo(f"{row['policy']}: {row['problem']}")
    if metrics is not None:
        print_table(terminal("Estimates beside the true values", metrics))
    click.echo(f"Read over {support.origin}.")


def _policies(sources: tuple[Path, ...]) -> "dict[str, Policy]":
    from trajworld.policies.policy import Policy
    from trajworld.policies.read import find_policies, read_policy

    found: dict[Path, Policy] = {}
    for source in sources:
        if source.is_dir():
            found |= {path: one for path, one in find_policies(source).items() if isinstance(one, Policy)}
        else:
            found[source] = read_policy(source)
    if not found:
        raise TrajWorldError(f"there is no policy in {', '.join(map(str, sources))}")
    stems = [path.stem for path in found]
    return {path.stem if stems.count(path.stem) == 1 else str(path): one for path, one in found.items()}


def _read_truth(path: Path, policies: "dict[str, Policy]") -> dict[str, tuple[float, float]]:
    from trajworld.files import read_json

    content = read_json(path)
    try:
        known = {
            one["policy"]: (float(one["discounted"]), float(one["discounted_stderr"])) for one in content
        }
    except (TypeError, KeyError, ValueError):
        raise TrajWorldError(
            f"{path} is not what `trajworld policy evaluate -o` writes, of 2 episodes or more"
        ) from None
    if missing := sorted(policies.keys() - known.keys()):
        raise TrajWorldError(f"{path} has no true value of {missing[0]}: it has {', '.join(known)}")
    return known


def _simulated(
    policies: "dict[str, Policy]", environment: str, episodes: int, settings: OpeSettings
) -> dict[str, tuple[float, float]]:
    from trajworld.collect.collector import default_workers
    from trajworld.collect.returns import policy_returns

    with job_progress("Simulating", "episodes") as progress:
        found = policy_returns(
            policies,
            environment=environment,
            episodes=episodes,
            horizon=settings.horizon,
            gamma=settings.discount,
            seed=settings.seed,
            workers=default_workers(len(policies) * episodes * settings.horizon),
            progress=progress,
        )
    return {one["policy"]: (one["discounted"], one["discounted_stderr"]) for one in found}


def _fitted_q(dataset: Any, policies: "dict[str, Policy]", settings: OpeSettings) -> "pd.DataFrame":
    import pandas as pd

    from trajworld.evaluation.fitted_q import fitted_q_values
    from trajworld.evaluation.ope import mean_row
    from trajworld.evaluation.returns import initial_states

    starts = initial_states(dataset, settings.states, settings.seed)
    with job_progress("Fitting", "iterations") as progress:
        values = fitted_q_values(
            dataset,
            list(policies.values()),
            starts,
            FittedQSettings(discount=settings.discount, seed=settings.seed),
            progress,
        )
    rows = [mean_row(name, row) for name, row in zip(policies, values, strict=True)]
    return pd.DataFrame(rows).assign(method="fitted Q", problem="")
