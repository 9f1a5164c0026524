"""What a report says in sentences: which backend is fastest for what here, and whether they are the same model."""

from collections.abc import Sequence

from .accuracy import LOGITS_TARGET, LOSSES_TARGET, Difference
from .cases import DTYPES
from .report import Report, Row

NAMES = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}
"""How a backend is called in sentences."""

_QUESTIONS = (("training", "Training"), ("rollout", "Rollouts"), ("forward", "Forward passes"))
# Medians closer than this are the same: timings on shared cores vary by more.
_SAME = 1.05
_QUIET = 0.7


def findings(report: Report) -> list[str]:
    """Sentences that answer the questions people ask of the tables, the most asked first."""
    said = [f"FAILED: {line}" for line in report.failures]
    said += _busy(report)
    said += [line for suite, what in _QUESTIONS if (line := _fastest(what, report.of(suite)))]
    others = (_bfloat16(report.of("training")), _peaks(report), _compiling(report), _recompiling(report))
    said += [line for line in others if line]
    return [*said, *_sameness(report.accuracy, report.references)]


def _busy(report: Report) -> list[str]:
    """What was timed while something else used the machine: matrix products just before were far below their best."""
    timed = [result for row in report.rows for result in row.results.values() if result.peak_float32]
    busy = [
        result for result in timed if (result.peak_float32 or 0) < _QUIET * report.peaks[result.backend][0]
    ]
    if not busy:
        return []
    where = ", ".join(dict.fromkeys(f"{result.backend} {result.suite}" for result in busy))
    return [
        f"The machine was busy during {len(busy)} of {len(timed)} timings (matrix products at less than {_QUIET:.0%} "
        f"of their best just before): repeat {where}."
    ]


def display_name(backend: str) -> str:
    """How a backend is called in sentences and tables."""
    return NAMES.get(backend, backend)


def _fastest(what: str, rows: Sequence[Row]) -> str:
    """Of each size in float32, at the M that has the most backends, the fastest and by how much."""
    parts = []
    for size in dict.fromkeys(row.first.size for row in rows):
        chosen = [
            row for row in rows if row.first.size == size and row.first.dtype == DTYPES[0] and row.fastest
        ]
        if not chosen:
            continue
        row = max(chosen, key=lambda row: (len(row.results), row.first.variates == 15, row.first.measure))
        times = sorted(
            (result.seconds or 0.0, name) for name, result in row.results.items() if result.seconds
        )
        (best, name), *others = times
        close = [display_name(other) for seconds, other in others if seconds < _SAME * best]
        slower = [
            f"{seconds / best:.1f} × faster than {display_name(other)}"
            for seconds, other in others
            if seconds >= _SAME * best
        ]
        leader = " and ".join([display_name(name), *close])
        parts.append(f"{size}: {leader}" + (f" ({', '.join(slower)})" if slower else ""))
    return f"{what}, fastest in float32: {'; '.join(parts)}." if parts else ""


def _bfloat16(rows: Sequence[Row]) -> str:
    """The gain of bfloat16 in training, of the largest model that was measured in both."""
    both = [row for row in rows if row.first.dtype == DTYPES[1] and row.float32]
    if not both:
        return ""
    row = max(both, key=lambda row: row.first.flops or 0)
    gains = [
        f"{gain:.2f} × on {display_name(name)}"
        for name in row.results
        if (gain := row.bfloat16_gain(name)) is not None
    ]
    return f"In bfloat16 {row.first.size} trains at {', '.join(gains)} the speed of float32." if gains else ""


def _peaks(report: Report) -> str:
    """The matrix products that shares of the peak refer to: they differ by framework."""
    parts = [
        f"{display_name(name)} {float32 / 1e9:,.0f} in float32, {bfloat16 / 1e9:,.0f} in bfloat16"
        for name, (float32, bfloat16) in report.peaks.items()
    ]
    reach = f"Matrix products reach, in GFLOP/s: {'; '.join(parts)}"
    return f"{reach}. Shares of the peak are of the same framework's." if parts else ""


def _compiling(report: Report) -> str:
    rows = [row for row in report.of("training") if row.first.dtype == DTYPES[0]]
    if not rows:
        return ""
    row = max(rows, key=lambda row: (len(row.results), row.first.flops or 0))
    parts = [
        f"{result.compile_seconds:.1f} s on {display_name(name)}"
        for name, result in row.results.items()
        if result.compile_seconds is not None
    ]
    return (
        f"The first training step of {row.first.size} takes {', '.join(parts)} more than the next."
        if parts
        else ""
    )


def _recompiling(report: Report) -> str:
    """Whether a rollout of another length compiles again."""
    parts = []
    for backend in report.backends:
        facts = [
            result.facts
            for row in report.of("rollout")
            if (result := row.results.get(backend)) and len(result.facts.get("horizons", ())) > 1
        ]
        if facts:
            count = max(one.get("compilations", 0) for one in facts)
            lengths = max(len(one["horizons"]) for one in facts)
            parts.append(
                f"{display_name(backend)} {f'{count} for {lengths} lengths' if count else 'none (eager)'}"
            )
    return f"Compilations of a rollout: {', '.join(parts)}." if parts else ""


def _sameness(accuracy: Sequence[Difference], references: Sequence[str]) -> list[str]:
    if not accuracy:
        alone = f" (only {display_name(references[0])} has arrays)" if references else ""
        return [
            f"Whether they are the same model was not measured: run the suite accuracy under two backends{alone}."
        ]
    said = []
    for one in accuracy:
        parts = []
        if one.largest_logits is not None:
            parts.append(f"logits differ by {one.largest_logits:.1e} at most (target {LOGITS_TARGET:g})")
        if one.losses is not None:
            parts.append(
                f"losses along {len(one.losses)} steps by {one.largest_loss:.1e} relative (target {LOSSES_TARGET:g})"
            )
        if one.holdout is not None:
            parts.append(f"the final holdout error by {one.holdout:.1e} relative")
        verdict = "the same model" if one.equal else "NOT the same within the targets"
        said.append(
            f"{display_name(one.backend)} against {display_name(one.reference)}: {verdict}; {', '.join(parts)}."
        )
    return said
