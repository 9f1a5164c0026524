"""Published checkpoints: sizes inferred from the weights; damaged ones refused by the weight concerned."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trajworld.errors import TrajWorldError, UsageError
from trajworld.interop.published import read_published

SHARED = Path(__file__).parents[2] / "shared"


def golden(name: str) -> Path:
    path = SHARED / "goldens" / "small" / name
    if not path.exists():
        pytest.skip("needs the goldens in the shared folder beside the checkout")
    return path


def tree_of(
    kind: str, layers: int = 3, width: int = 6, bins: int = 5, positions: int = 4, variates: int = 9
) -> Any:
    """Random weights laid out as the published code lays them out, for a small model of the given sizes."""
    random = np.random.default_rng(0)

    def numbers(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    def dense(size_in: int, size_out: int) -> dict[str, np.ndarray]:
        return {"kernel": numbers(size_in, size_out), "bias": numbers(size_out)}

    tree: dict[str, Any] = {
        "embed_proj": dense(bins, width),
        "embed_obs_act": {"embedding": numbers(2, width)},
        "embed_timestep": {"embedding": numbers(positions, width)},
        "head": dense(width, bins),
    }
    if kind == "trajworld":
        tree["embed_variate"] = {"embedding": numbers(variates, width)}
    for layer in range(layers):
        block: dict[str, Any] = {}
        for index in (1,) if kind == "tdm" else (0, 1):
            block[f"Attention_{index}"] = {f"Dense_{part}": dense(width, width) for part in range(4)}
            block[f"Dense_{2 * index}"] = dense(width, 4 * width)
            block[f"Dense_{2 * index + 1}"] = dense(4 * width, width)
        for index in (1, 3) if kind == "tdm" else range(4):
            block[f"LayerNorm_{index}"] = {"scale": numbers(width), "bias": numbers(width)}
        tree[f"blocks_{layer}"] = block
    return tree


def write(folder: Path, tree: Any, low: Any = None, high: Any = None) -> Path:
    path = folder / "trm_dynamics.pkl"
    low = np.zeros(4, "f4") if low is None else low
    high = np.ones(4, "f4") if high is None else high
    path.write_bytes(pickle.dumps({"params": {"params": tree}, "max_values": high, "min_values": low}))
    return path


def test_sizes_of_the_golden_trajworld() -> None:
    read = read_published(golden("trm_dynamics.pkl"))
    expected = np.load(golden("golden.npz"))
    assert (read.kind, read.bins, read.positions, read.window, read.variates) == (
        "trajworld",
        256,
        20,
        20,
        100,
    )
    assert (read.layers, read.width, read.heads) == tuple(
        int(expected[key]) for key in ("layers", "width", "heads")
    )
    np.testing.assert_array_equal(read.minimum, expected["min_values"])
    np.testing.assert_array_equal(read.maximum, expected["max_values"])


def test_sizes_of_the_golden_tdm() -> None:
    read = read_published(golden("tdm_dynamics.pkl"))
    assert (read.kind, read.layers, read.width, read.variates, read.window) == ("tdm", 2, 32, 0, 20)


@pytest.mark.parametrize("kind", ["trajworld", "tdm"])
def test_every_size_is_inferred(tmp_path: Path, kind: str) -> None:
    tree = tree_of(kind, layers=11, width=6, bins=5, positions=4)
    read = read_published(write(tmp_path, tree), heads=3)
    assert (read.kind, read.layers, read.width, read.heads, read.bins, read.positions) == (
        kind,
        11,
        6,
        3,
        5,
        4,
    )
    assert read.variates == (9 if kind == "trajworld" else 0)
    kernel = tree["blocks_10"]["Attention_1"]["Dense_3"]["kernel"]
    np.testing.assert_array_equal(read.weights["blocks_10/Attention_1/Dense_3/kernel"], kernel)
    assert all(array.dtype == np.float32 and array.flags.writeable for array in read.weights.values())


@pytest.mark.parametrize(("positions", "window"), [(512 * 7, 7), (4 * 6, 6), (27, 20), (11, 11)])
def test_window_of_tdm(tmp_path: Path, positions: int, window: int) -> None:
    assert read_published(write(tmp_path, tree_of("tdm", positions=positions)), 2).window == window


def test_pretrained_ranges_are_numbers(tmp_path: Path) -> None:
    read = read_published(write(tmp_path, tree_of("trajworld"), -1e-5, 1.00001), heads=2)
    assert read.minimum.shape == read.maximum.shape == ()
    assert float(read.maximum) == pytest.approx(1.00001)


def test_half_precision_and_foreign_byte_order(tmp_path: Path) -> None:
    tree = tree_of("tdm")
    tree["head"]["bias"] = np.array([1, 2, 3, 4, 5], ">f8")
    tree["embed_proj"]["bias"] = np.arange(6, dtype="f2")
    read = read_published(write(tmp_path, tree), heads=1)
    np.testing.assert_array_equal(read.weights["head/bias"], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(read.weights["embed_proj/bias"], np.arange(6))


def set_at(tree: Any, name: str, value: Any) -> None:
    *folders, last = name.split("/")
    for folder in folders:
        tree = tree.setdefault(folder, {})
    if value is None:
        del tree[last]
    else:
        tree[last] = value


def nan_at(tree: Any) -> None:
    tree["blocks_1"]["Dense_2"]["kernel"][0, 0] = np.nan


DAMAGE: dict[str, tuple[Callable[[Any], None], str]] = {
    "missing bias": (
        lambda tree: set_at(tree, "blocks_1/Dense_0/bias", None),
        "'blocks_1/Dense_0/bias' is missing",
    ),
    "missing block": (
        lambda tree: set_at(tree, "blocks_0", None),
        "'blocks_0/Attention_0/Dense_0/bias' is missing",
    ),
    "no blocks": (lambda tree: [tree.pop(f"blocks_{layer}") for layer in range(3)] and None, "no blocks"),
    "no head": (lambda tree: set_at(tree, "head", None), "'head/bias' is missing"),
    "no input": (lambda tree: set_at(tree, "embed_proj", None), "'embed_proj/kernel' is missing"),
    "extra weight": (lambda tree: set_at(tree, "lora/kernel", np.ones(3, "f4")), "'lora/kernel'"),
    "extra in a block": (
        lambda tree: set_at(tree, "blocks_2/Dense_9/bias", np.ones(3, "f4")),
        "'blocks_2/Dense_9/bias'",
    ),
    "transposed": (
        lambda tree: set_at(tree, "blocks_2/Dense_1/kernel", np.ones((6, 24), "f4")),
        r"'blocks_2/Dense_1/kernel' has the shape \(6, 24\).* \(24, 6\)",
    ),
    "flat input": (lambda tree: set_at(tree, "embed_proj/kernel", np.ones(30, "f4")), "two axes"),
    "integers": (
        lambda tree: set_at(tree, "head/bias", np.ones(5, "i4")),
        "'head/bias' is no array of floating",
    ),
    "a list": (lambda tree: set_at(tree, "head/bias", [1.0] * 5), "'head/bias' is no array .* but a list"),
    "a number as a name": (lambda tree: tree["head"].update({3: np.ones(5, "f4")}), "'head' is no array"),
    "NaN": (nan_at, r"'blocks_1/Dense_2/kernel' holds 1 value"),
    "infinite": (
        lambda tree: set_at(tree, "head/bias", np.full(5, np.inf, "f4")),
        "'head/bias' holds 5 value",
    ),
    "beyond float32": (
        lambda tree: set_at(tree, "head/bias", np.full(5, 1e300)),
        "'head/bias' holds 5 value",
    ),
    "no variates": (lambda tree: set_at(tree, "embed_variate/embedding", np.ones((0, 6), "f4")), "is empty"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_weights(tmp_path: Path, case: str) -> None:
    change, message = DAMAGE[case]
    tree = tree_of("trajworld")
    change(tree)
    with pytest.raises(TrajWorldError, match=message) as error:
        read_published(write(tmp_path, tree), heads=2)
    assert "trm_dynamics.pkl" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (np.zeros(3), np.ones(4), "shape"),
        (np.zeros((2, 2)), np.ones((2, 2)), "shape"),
        (np.zeros(0), np.zeros(0), "shape"),
        (0.0, np.ones(4), "shape"),
        (np.ones(4), np.ones(4), "not below"),
        (np.array([0, np.nan]), np.ones(2), "'min_values' holds 1 value"),
        (np.zeros(2), np.array([1, np.inf]), "'max_values' holds 1 value"),
        ("0", "1", "neither a number"),
        (np.array(["a"]), np.ones(1), "neither a number"),
        ([0.0], [1.0], "neither a number"),
    ],
)
def test_damaged_ranges(tmp_path: Path, low: Any, high: Any, message: str) -> None:
    with pytest.raises(TrajWorldError, match=message):
        read_published(write(tmp_path, tree_of("tdm"), low, high), heads=2)


@pytest.mark.parametrize(
    "content", [[], 3, {}, {"params": {}}, {"params": {}, "min_values": 0, "max_values": 1}]
)
def test_other_pickles(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "other.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(TrajWorldError, match="is not a published checkpoint"):
        read_published(path)


@pytest.mark.parametrize("heads", [0, -2, 4, 7])
def test_heads_must_divide_the_width(tmp_path: Path, heads: int) -> None:
    with pytest.raises(UsageError, match="--heads"):
        read_published(write(tmp_path, tree_of("tdm")), heads=heads)


def test_weights_that_share_their_memory(tmp_path: Path) -> None:
    # One block of bytes under a thousand names costs the file little and would cost the copies a gigabyte.
    block = np.zeros(1 << 18, "f4")
    path = write(tmp_path, {f"weight_{index}": block for index in range(1000)})
    with pytest.raises(TrajWorldError, match="repeat one another's memory"):
        read_published(path)
