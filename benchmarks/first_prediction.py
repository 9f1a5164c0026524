"""Run as a module: load a model file and predict once; what a user waits for in a fresh process."""

import sys

import numpy as np

from trajworld.backend import active_backend
from trajworld.data.batch import Batch, Variates
from trajworld.models.files import load_model

if __name__ == "__main__":
    _, path, count = sys.argv
    model, backend = load_model(path), active_backend()
    values = np.full((1, model.sizes.window, int(count)), 0.5, np.float32)
    zeros = np.zeros(int(count), np.float32)
    batch = Batch(
        values, np.ones(values.shape[:2], np.float32), Variates(zeros.astype(int), zeros, zeros + 1)
    )
    backend.wait(backend.compile(model.predict, model)(batch))
