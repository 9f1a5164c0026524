"""How much memory do a training step and a rollout take at most, compiling included, in a fresh process?

On the CPU: how far the resident memory's peak rises above what libraries, weights and the batch take. On a GPU: the
allocator's.
"""

import json
from typing import Any

import pytest

from trajworld.benchmarks.cases import Case
from trajworld.benchmarks.measure import keep, run_fresh

SUITE = "memory"


@pytest.mark.parametrize("what", ["training step", "rollout"])
def test_memory(benchmark: Any, case: Case, what: str) -> None:
    module = ["-m", "trajworld.benchmarks.memory_probe"]
    arguments = [*module, what, case.size, str(case.variates), case.dtype]
    answer = benchmark.pedantic(run_fresh, args=(arguments,), rounds=1)
    memory = json.loads(answer.strip().splitlines()[-1])
    if memory is None:
        pytest.skip("nothing tells how much memory is held")
    keep(benchmark, SUITE, what, case, memory=memory)
