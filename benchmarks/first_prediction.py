"""Run as a module: load a model file and predict once; what a user waits for in a fresh process."""

import sys

import numpy as np

from trajworld.backend import active_backend
from trajworld.data.batch import Variates
from trajworld.models.files import load_model


def predict_once(path: str, variates: int) -> None:
    """Load a model and compute the logits of the row after one window."""
    model = load_model(path)
    values = np.full((1, model.sizes.window, variates), 0.5, np.float32)
    described = Variates(
        np.zeros(variates, np.int32), np.zeros(variates, np.float32), np.ones(variates, np.float32)
    )
    backend = active_backend()
    compiled = backend.compile(lambda *arrays: model(*arrays, rows=1), model)
    backend.wait(compiled(values, np.ones(values.shape[:2], np.float32), described))


if __name__ == "__main__":
    predict_once(sys.argv[1], int(sys.argv[2]))
