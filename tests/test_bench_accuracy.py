"""How far backends are apart: differences computed from the arrays that each left."""

from pathlib import Path

import numpy as np
import pytest

from trajworld.benchmarks.accuracy import arrays_path, differences, read_arrays, write_arrays
from trajworld.errors import TrajWorldError


def arrays(logits: float = 0.0, losses: float = 0.0, holdout: float = 0.0) -> dict[str, np.ndarray]:
    """Arrays that are off by so much in one entry, relative for losses and holdout error."""
    base = np.linspace(-3, 3, 24, dtype=np.float32).reshape(2, 3, 4)
    changed = base.copy()
    changed[1, 2, 0] += logits
    steps = np.array([6.0, 5.0, 4.0])
    steps[1] *= 1 + losses
    return {
        "logits/tiny": changed,
        "logits/small": base,
        "losses": steps,
        "holdout_error": np.array(0.5 * (1 + holdout)),
    }


def test_differences_are_the_largest_from_jax_whatever_the_names_order(tmp_path: Path) -> None:
    write_arrays(arrays_path(tmp_path, "torch"), arrays(logits=2e-5, losses=-4e-4, holdout=0.1))
    write_arrays(arrays_path(tmp_path, "jax"), arrays())
    write_arrays(arrays_path(tmp_path, "abacus"), arrays(losses=2e-3))
    found = read_arrays(tmp_path)
    assert list(found) == ["jax", "abacus", "torch"]
    abacus, torch = differences(found)
    assert (abacus.backend, abacus.reference, torch.backend) == ("abacus", "jax", "torch")
    assert torch.logits == {"small": 0.0, "tiny": pytest.approx(2e-5, rel=0.02)}
    assert torch.largest_logits == pytest.approx(2e-5, rel=0.02)
    assert torch.losses is not None
    np.testing.assert_allclose(torch.losses, [0, 4e-4, 0], atol=1e-12)
    assert torch.largest_loss == pytest.approx(4e-4)
    assert torch.holdout == pytest.approx(0.1)
    assert torch.equal
    assert abacus.largest_loss == pytest.approx(2e-3)
    assert not abacus.equal


def test_without_jax_the_first_is_the_reference() -> None:
    (one,) = differences({"tensorflow": arrays(), "torch": arrays(logits=1e-3)})
    assert (one.reference, one.backend, one.equal) == ("tensorflow", "torch", False)


def test_only_what_both_have_is_compared() -> None:
    quick = {name: value for name, value in arrays().items() if name == "logits/tiny"}
    (one,) = differences({"jax": arrays(), "torch": quick})
    assert list(one.logits) == ["tiny"]
    assert one.losses is None
    assert one.largest_loss is None
    assert one.holdout is None
    assert differences({"jax": arrays()}) == []
    assert differences({}) == []


def test_different_shapes_are_refused() -> None:
    with pytest.raises(TrajWorldError, match="run the suite accuracy again"):
        differences({"jax": arrays(), "torch": arrays() | {"losses": np.ones(7)}})


@pytest.mark.parametrize("damage", ["truncated", "text", "object", "nan"])
def test_damaged_archives_are_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = arrays_path(tmp_path, "jax")
    write_arrays(path, arrays())
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "text":
        path.write_text("no archive")
    elif damage == "object":
        np.savez(path, losses=np.array([{"a": 1}], dtype=object))
    else:
        write_arrays(path, {"losses": np.array([1.0, np.nan])})
    with pytest.raises(TrajWorldError, match=r"accuracy-jax\.npz"):
        read_arrays(tmp_path)
