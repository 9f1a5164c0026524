"""What a model's weights are known by."""

import hashlib
import json
from dataclasses import asdict
from typing import Any


def weights_digest(model: Any) -> str:
    """A digest of a model's sizes and weights: equal for equal weights, whatever their file is called."""
    digest = hashlib.sha256(json.dumps(asdict(model.sizes), sort_keys=True).encode())
    for weights in model.get_weights():
        digest.update(weights.astype("<f4").tobytes())
    return digest.hexdigest()[:16]
