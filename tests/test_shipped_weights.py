"""The models that ship: the files are sound, and every backend computes from them what NumPy does."""

import numpy as np
import pytest
from keras import ops
from numpy_reference import Reference, weights_of_file

import trajworld
from trajworld.backend import active_backend
from trajworld.data.batch import Variates
from trajworld.models.files import describe_model
from trajworld.models.identity import action_mask
from trajworld.models.sizes import TrajWorldSizes
from trajworld.models.trajworld import TrajWorld
from trajworld.weights import shipped_models

NAMES = sorted(shipped_models())
# (observations, actions) of environments of several M, the widest pre-training one among them.
SHAPES = [(3, 1), (11, 3), (17, 6), (66, 24)]
WINDOWS, ROWS = 3, 20


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str) -> TrajWorld:
    return trajworld.load(name)


def fixed_windows(observations: int, actions: int) -> tuple[np.ndarray, np.ndarray, Variates]:
    """Smooth made-up trajectories, some values beyond [0, 1], all windows but the first padded on the left."""
    count = observations + 1 + actions
    rng = np.random.default_rng([observations, actions])
    steps = np.arange(ROWS)[None, :, None]
    speed, phase = rng.uniform(0.05, 0.6, (2, WINDOWS, 1, count))
    values = 0.5 + 0.55 * np.sin(speed * steps + 10 * phase)
    time_mask = np.ones((WINDOWS, ROWS), np.float32)
    for window in range(1, WINDOWS):
        time_mask[window, : ROWS - ROWS // (window + 1)] = 0
    variates = Variates(
        action_mask(observations, actions), np.zeros(count, np.float32), np.ones(count, np.float32)
    )
    return (values * time_mask[:, :, None]).astype(np.float32), time_mask, variates


def test_what_ships_is_named_and_pre_trained(name: str) -> None:
    described = describe_model(shipped_models()[name])
    assert name.startswith("trajworld-")
    assert described["parameters"] == TrajWorldSizes.presets[name.removeprefix("trajworld-")].parameters
    assert described["support"] == {"lower": 0.0, "upper": 1.0}
    assert len(described["sources"]) > 1
    assert described["history"]["kind"] == "pretrain"
    assert described["dtype"] == "float32"
    # No folder of the machine that trained it.
    assert not [data for data in described["history"]["datasets"] if data.startswith(("/", "~", ".", "\\"))]


@pytest.mark.parametrize(("observations", "actions"), SHAPES)
def test_the_backend_computes_what_numpy_does_from_the_raw_weights(
    name: str, model: TrajWorld, observations: int, actions: int
) -> None:
    """Nothing is shared but the file: NumPy reads its arrays without Keras, and computes in float64."""
    values, time_mask, variates = fixed_windows(observations, actions)
    compiled = active_backend().compile(model, model)
    found = np.asarray(ops.convert_to_numpy(compiled(values, time_mask, variates)))
    reference = Reference(model.sizes, weights_of_file(shipped_models()[name], model.sizes.blocks))
    expected = reference(values, time_mask, variates)
    assert found.shape == expected.shape == (WINDOWS, ROWS, observations + 1 + actions, model.sizes.bins)
    real = time_mask > 0
    np.testing.assert_allclose(found[real], expected[real], rtol=0, atol=1e-4)
    # The numbers would tell another model: they are not all alike.
    assert expected[real].std() > 0.1
