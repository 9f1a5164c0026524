"""The models that ship: the files are sound, and every backend computes from them what NumPy does."""

import numpy as np
import pytest
from numpy_reference import Reference, known_variates, numpy, weights_of_file, windows

import trajworld
from trajworld.backend import active_backend
from trajworld.models.files import describe_model
from trajworld.models.sizes import TrajWorldSizes
from trajworld.models.trajworld import TrajWorld
from trajworld.weights import shipped_models

NAMES = sorted(shipped_models())
# (observations, actions) of environments of several M, the widest pre-training one among them.
SHAPES = [(3, 1), (11, 3), (17, 6), (66, 24)]


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name: str) -> TrajWorld:
    return trajworld.load(name)


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
    variates = known_variates(observations, actions)
    values, time_mask = windows(variates, rows=20)
    found = numpy(active_backend().compile(model, model)(values, time_mask, variates))
    reference = Reference(model.sizes, weights_of_file(shipped_models()[name], model.sizes.blocks))
    expected = reference(values, time_mask, variates)
    assert found.shape == expected.shape == (*values.shape, model.sizes.bins)
    real = time_mask > 0
    np.testing.assert_allclose(found[real], expected[real], rtol=0, atol=1e-4)
    # The numbers would tell another model: they are not all alike.
    assert expected[real].std() > 0.1
