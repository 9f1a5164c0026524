"""Published checkpoints: recorded outputs, sizes inferred from the weights, our names for them, damage refused."""

import functools
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_reference import Array, numpy, weights_of_model

from trajworld.backend import active_backend
from trajworld.cli.main import main
from trajworld.data.batch import Variates
from trajworld.errors import TrajWorldError, UsageError
from trajworld.interop.published import import_published
from trajworld.models import bins as binning
from trajworld.models.files import load_model
from trajworld.models.sizes import TrajWorldSizes
from trajworld.models.trajworld import TrajWorld


@pytest.fixture(scope="module")
def golden(goldens: Path) -> dict[str, Array]:
    with np.load(goldens / "golden.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def known(golden: dict[str, Array]) -> Variates:
    return Variates(golden["is_action"], golden["min_values"], golden["max_values"])


@pytest.fixture(scope="module")
def model(goldens: Path, golden: dict[str, Array], tmp_path_factory: pytest.TempPathFactory) -> TrajWorld:
    """The model in the file that the command line makes of the published one."""
    path = tmp_path_factory.mktemp("imported") / "model.keras"
    words = ["--heads", str(golden["heads"]), "--environment", "gymnasium/Toy-v0"]
    assert main(["checkpoint", "import", str(goldens / "trm_dynamics.pkl"), "-o", str(path), *words]) == 0
    return load_model(path)


def compiled(model: TrajWorld, function: Callable[..., Any]) -> Callable[..., Any]:
    return active_backend().compile(function, model)


def assert_real_rows_close(found: object, golden: dict[str, Array], name: str) -> None:
    real = golden["time_mask"] > 0
    assert 0 < real.sum() < real.size
    np.testing.assert_allclose(numpy(found)[real], golden[name][real], atol=1e-4)


def test_whole_window(model: TrajWorld, golden: dict[str, Array], known: Variates) -> None:
    logits = compiled(model, model)(golden["values"], golden["time_mask"], known)
    assert_real_rows_close(logits, golden, "logits")
    mean = binning.moments(logits, golden["min_values"], golden["max_values"])[0]
    assert_real_rows_close(mean, golden, "mean")


def test_cached_decoding(model: TrajWorld, golden: dict[str, Array], known: Variates) -> None:
    values, steps, window = golden["values"], int(golden["prefill_steps"]), golden["values"].shape[1]
    decode = compiled(model, model.decode)
    past = compiled(model, functools.partial(model.encode_past, length=window))
    cache = past(values[:, :steps], golden["time_mask"][:, :steps], known)
    answers = []
    for position in range(steps, window):
        logits, cache = decode(values[:, position], np.int32(position), cache, known)
        answers.append(numpy(logits)[:, None])
    found = np.concatenate(answers, axis=1)
    for name in ("incremental_logits", "logits"):
        np.testing.assert_allclose(found, golden[name][:, steps:], atol=1e-4)


def test_the_baseline(goldens: Path, golden: dict[str, Array], known: Variates, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    assert main(["checkpoint", "import", str(goldens / "tdm_dynamics.pkl"), "-o", str(path)]) == 0
    assert os.listdir(tmp_path) == ["model.keras"]
    baseline = load_model(path)
    assert baseline.identity.history["imported"] == "tdm_dynamics.pkl"
    assert (baseline.kind, baseline.sizes.window) == ("tdm", golden["values"].shape[1])
    logits = compiled(baseline, baseline)(golden["values"], golden["time_mask"], known)
    assert_real_rows_close(logits, golden, "tdm_logits")


def test_encoding_and_target_bins(golden: dict[str, Array]) -> None:
    values, lower, upper = (golden[name] for name in ("values", "min_values", "max_values"))
    np.testing.assert_allclose(
        numpy(binning.encode(values, lower, upper, 256)), golden["input_probs"], atol=1e-4
    )
    found = numpy(binning.target_bins(values, lower, upper, 256))
    exact = (values.astype(np.float64) - lower) / (upper.astype(np.float64) - lower) * 256
    near_an_edge = np.abs(exact - np.round(exact)) < 256 * 4 * np.finfo(np.float32).eps
    np.testing.assert_array_equal(found[~near_an_edge], golden["target_bins"][~near_an_edge])
    assert near_an_edge.mean() < 0.05
    assert np.all(np.abs(found - golden["target_bins"]) <= 1)


def tree_of(layers: int = 3) -> Any:
    """Random weights as the published code lays them out: width 6, 5 bins, a window of 4, 9 variates."""
    width, bins, positions, variates = 6, 5, 4, 9
    random = np.random.default_rng(0)

    def numbers(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    def dense(size_in: int, size_out: int) -> dict[str, np.ndarray]:
        return {"kernel": numbers(size_in, size_out), "bias": numbers(size_out)}

    tree: dict[str, Any] = {
        "embed_proj": dense(bins, width),
        "embed_obs_act": {"embedding": numbers(2, width)},
        "embed_timestep": {"embedding": numbers(positions, width)},
        "embed_variate": {"embedding": numbers(variates, width)},
        "head": dense(width, bins),
    }
    for layer in range(layers):
        block: dict[str, Any] = {}
        for index in range(2):
            block[f"Attention_{index}"] = {f"Dense_{part}": dense(width, width) for part in range(4)}
            block[f"Dense_{2 * index}"] = dense(width, 4 * width)
            block[f"Dense_{2 * index + 1}"] = dense(4 * width, width)
        for index in range(4):
            block[f"LayerNorm_{index}"] = {"scale": numbers(width), "bias": numbers(width)}
        tree[f"blocks_{layer}"] = block
    return tree


def write(folder: Path, tree: Any, low: Any = None, high: Any = None) -> Path:
    path = folder / "trm_dynamics.pkl"
    low = np.zeros(4, "f4") if low is None else low
    high = np.ones(4, "f4") if high is None else high
    path.write_bytes(pickle.dumps({"params": {"params": tree}, "max_values": high, "min_values": low}))
    return path


def test_every_size_is_inferred_and_every_weight_renamed(tmp_path: Path) -> None:
    tree = tree_of(layers=2)
    tree["head"]["bias"] = np.array([1, 2, 3, 4, 5], ">f8")
    tree["embed_proj"]["bias"] = np.arange(6, dtype="f2")
    model = import_published(write(tmp_path, tree), heads=3)
    assert model.sizes == TrajWorldSizes(blocks=2, width=6, heads=3, window=4, bins=5, variates=9)
    support, weights = model.identity.support, weights_of_model(model)
    assert (support.lower.tolist(), support.upper.tolist()) == ([0] * 4, [1] * 4)
    query, key, value, out = (
        tree["blocks_1"]["Attention_1"][f"Dense_{index}"]["kernel"] for index in range(4)
    )
    ours = weights["block_1_time/query_key_value/kernel"]
    np.testing.assert_array_equal(ours, np.hstack([query, key, value]))
    np.testing.assert_array_equal(weights["block_1_time/projection/kernel"], out)
    for half, number in (("variate", 0), ("time", 1)):
        for ours, theirs in (
            ("expansion/kernel", f"Dense_{2 * number}/kernel"),
            ("contraction/kernel", f"Dense_{2 * number + 1}/kernel"),
            ("attention_norm/gamma", f"LayerNorm_{number}/scale"),
            ("feed_forward_norm/gamma", f"LayerNorm_{number + 2}/scale"),
        ):
            part, name = theirs.split("/")
            np.testing.assert_array_equal(weights[f"block_0_{half}/{ours}"], tree["blocks_0"][part][name])
    np.testing.assert_array_equal(weights["head/bias"], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(weights["input_projection/bias"], np.arange(6))


def test_pretrained_ranges_are_numbers(tmp_path: Path) -> None:
    # It trained on exactly [0, 1], whatever the file says.
    support = import_published(write(tmp_path, tree_of(), -1e-5, 1.00001), heads=2).identity.support
    assert (support.shared, support.lower, support.upper) == (True, 0, 1)


def changed(name: str, value: Any) -> Callable[[Any], None]:
    """The change that puts a value at a place, or takes away what is there."""
    *folders, last = name.split("/")

    def change(tree: Any) -> None:
        for folder in folders:
            tree = tree.setdefault(folder, {})
        tree[last] = value
        if value is None:
            del tree[last]

    return change


DAMAGE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no bias": (changed("blocks_1/Dense_0/bias", None), "of its sizes has"),
    "no first block": (changed("blocks_0", None), "'blocks_0/.*' is missing"),
    "no blocks": (lambda tree: [tree.pop(f"blocks_{layer}") for layer in range(3)], "blocks must be"),
    "half a baseline": (
        lambda tree: [tree.pop("embed_variate"), tree["blocks_0"].pop("Attention_0")],
        "of its sizes has",
    ),
    "no input": (changed("embed_proj", None), "no matrix 'embed_proj/kernel'"),
    "no variates": (changed("embed_variate/embedding", np.ones((0, 6), "f4")), "variates must be"),
    "extra weight": (changed("lora/kernel", np.ones(3, "f4")), "of its sizes has"),
    "another name": (lambda tree: tree.update(tail=tree.pop("head")), "'head/kernel' is missing"),
    "transposed": (
        changed("blocks_2/Dense_1/kernel", np.ones((6, 24), "f4")),
        r"'blocks_2/Dense_1/kernel' is missing or not of the shape \(24, 6\)",
    ),
    "flat input": (changed("embed_proj/kernel", np.ones(30, "f4")), "no matrix"),
    "integers": (changed("head/bias", np.ones(5, "i4")), "'head/bias' is no array of floating"),
    "a list": (changed("head/bias", [1.0] * 5), "'head/bias' is no array .* but a list"),
    "a number as a name": (lambda tree: tree["head"].update({3: np.ones(5, "f4")}), "'head' is no array"),
    "NaN": (
        changed("blocks_1/LayerNorm_2/bias", np.array([1, np.nan] * 3, "f4")),
        "LayerNorm_2/bias' holds 3 value",
    ),
    "beyond float32": (changed("head/bias", np.full(5, 1e300)), "'head/bias' holds 5 value"),
}


@pytest.mark.once
@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_weights(tmp_path: Path, case: str) -> None:
    change, message = DAMAGE[case]
    tree = tree_of()
    change(tree)
    with pytest.raises(TrajWorldError, match=message) as error:
        import_published(write(tmp_path, tree), heads=2)
    assert "trm_dynamics.pkl" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.once
@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (np.zeros(3), np.ones(4), "shape"),
        (np.zeros((2, 2)), np.ones((2, 2)), "shape"),
        (np.zeros(0), np.zeros(0), "neither a number"),
        (0.0, np.ones(4), "shape"),
        (np.ones(4), np.ones(4), "below"),
        (np.array([0, np.nan]), np.ones(2), "finite"),
        ("0", "1", "neither a number"),
    ],
)
def test_damaged_ranges(tmp_path: Path, low: Any, high: Any, message: str) -> None:
    with pytest.raises(TrajWorldError, match=message):
        import_published(write(tmp_path, tree_of(), low, high), heads=2)


@pytest.mark.once
def test_other_pickles_and_wrong_heads(tmp_path: Path) -> None:
    path = tmp_path / "other.pkl"
    for content in ([], 3, {}, {"params": {}}, {"params": {}, "min_values": 0, "max_values": 1}):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(TrajWorldError, match="is not a published checkpoint"):
            import_published(path)
    for heads in (0, -2, 4, 7):
        with pytest.raises(UsageError, match="heads"):
            import_published(write(tmp_path, tree_of()), heads=heads)


@pytest.mark.once
def test_weights_that_share_their_memory(tmp_path: Path) -> None:
    # One block of bytes under a thousand names costs the file little and would cost the copies a gigabyte.
    block = np.zeros(1 << 18, "f4")
    path = write(tmp_path, {f"weight_{index}": block for index in range(1000)})
    with pytest.raises(TrajWorldError, match="repeat one another's memory"):
        import_published(path)
