"""How much memory do a training step and a rollout take at most, compiling included, in a fresh process?

On the CPU: how far the resident memory's peak rises above what libraries, weights and the batch take. On a GPU: the
allocator's.
"""

from typing import Any

import pytest

from trajworld.benchmarks.cases import Case
from trajworld.benchmarks.measure import keep, run_fresh

# What three calls take beyond what the process held.
PROGRAM = """
from trajworld.backend import active_backend
from trajworld.benchmarks.cases import Case
from trajworld.benchmarks.draws import {call}
call, peak = {call}({case!r}), active_backend().peak_memory
before = peak()
for _ in range(3):
    call()
print(None if before is None else max(peak() - before, 0))
"""


@pytest.mark.parametrize("measure", ["training step", "rollout"])
def test_memory(benchmark: Any, case: Case, measure: str) -> None:
    program = PROGRAM.format(call=f"{measure.split()[0]}_call", case=case)
    answer = benchmark.pedantic(run_fresh, args=("-c", program), rounds=1).split()[-1]
    if answer == "None":
        pytest.skip("the memory in use is unknown")
    keep(benchmark, measure, case, memory=int(answer))
