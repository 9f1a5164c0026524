"""What the tests of collecting share."""

import numpy as np


def same(one, other):
    """Assert that two episodes are equal."""
    for part in ("observations", "actions", "rewards"):
        np.testing.assert_array_equal(getattr(one, part), getattr(other, part))
    assert (one.terminated, one.truncated) == (other.terminated, other.truncated)
