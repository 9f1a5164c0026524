"""How much memory do a training step and a rollout take at most, compiling included, in a fresh process?

On the CPU: how far the resident memory's peak rises above what libraries, weights and the batch take. On a GPU: the
allocator's.
"""

from typing import Any

import pytest

from trajworld.benchmarks.cases import Case
from trajworld.benchmarks.measure import keep, run_fresh

PROGRAM = """
from trajworld.benchmarks.cases import Case
from trajworld.benchmarks.draws import {call}
from trajworld.benchmarks.measure import memory_of
print(memory_of({call}({case!r})))
"""


@pytest.mark.parametrize(
    ("measure", "call"), [("training step", "training_call"), ("rollout", "rollout_call")]
)
def test_memory(benchmark: Any, case: Case, measure: str, call: str) -> None:
    program = PROGRAM.format(call=call, case=case)
    answer = benchmark.pedantic(run_fresh, args=(["-c", program],), rounds=1).split()[-1]
    if answer == "None":
        pytest.skip("nothing tells how much memory is held")
    keep(benchmark, measure, case, memory=int(answer))
