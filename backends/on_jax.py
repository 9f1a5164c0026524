"""JAX: jit with the weights as arguments, state kept in device arrays between training steps."""

from collections.abc import Callable
from typing import Any

import jax
import keras
import numpy as np

from trajworld.backend import Device, Tensor

from .host_memory import keep_freed_memory, peak_resident_memory, release_freed_memory
from .jax_devices import JaxDevices, jit_over_devices
from .processor import compilations_folder

keep_freed_memory()
# On the CPU a queue of steps gains nothing: the steps compete for the cores, and each holds its own memory.
jax.config.update("jax_cpu_enable_async_dispatch", False)
# A GPU's short float32 (TF32) moved logits by up to 4e-3: use mixed_bfloat16 for that speed, or set this.
if jax.config.jax_default_matmul_precision is None:
    jax.config.update("jax_default_matmul_precision", "highest")
# A training step takes ten seconds and more to compile: what was compiled before is read back, by later processes too.
if jax.config.jax_compilation_cache_dir is None:
    jax.config.update("jax_compilation_cache_dir", str(compilations_folder("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


class _JaxTrainingStep:
    """Weights and optimiser state as lists of arrays, donated to each step and replaced by its results."""

    def __init__(self, model: Any, optimizer: Any, loss: Callable[..., Tensor]) -> None:
        self._variables = model.trainable_variables
        self._optimizer = optimizer
        optimizer.build(self._variables)
        # Copies: the step gives its arguments' memory away, and the variables must stay readable until written back.
        self._weights = [jax.numpy.array(variable.value) for variable in self._variables]
        self._state = [jax.numpy.array(variable.value) for variable in optimizer.variables]

        rate = next(
            index for index, variable in enumerate(optimizer.variables) if variable is optimizer.learning_rate
        )

        def step(
            weights: list[Any], state: list[Any], learning_rate: Any, *arrays: Any
        ) -> tuple[Any, list[Any], list[Any]]:
            def loss_of(weights: list[Any]) -> Any:
                with keras.StatelessScope(state_mapping=list(zip(self._variables, weights, strict=True))):
                    return loss(*arrays)

            value, gradients = jax.value_and_grad(loss_of)(weights)
            state[rate] = learning_rate
            weights, state = optimizer.stateless_apply(state, gradients, weights)
            return value, weights, state

        self._step = jit_over_devices(step, replicated=3, donate_argnums=(0, 1))

    def __call__(self, learning_rate: float, *arrays: Any) -> Tensor:
        rate = np.float32(learning_rate)
        value, self._weights, self._state = self._step(self._weights, self._state, rate, *arrays)
        return value

    def write_back(self) -> None:
        pairs = zip(
            [*self._variables, *self._optimizer.variables], [*self._weights, *self._state], strict=True
        )
        for variable, value in pairs:
            variable.assign(jax.numpy.array(value))


class JaxBackend(JaxDevices):
    """See :class:`trajworld.backend.Backend`."""

    name = "jax"

    def compile(self, function: Callable[..., Any], model: Any) -> Callable[..., Any]:
        def pure(values: list[Any], *arrays: Any) -> Any:
            with keras.StatelessScope(state_mapping=list(zip(model.variables, values, strict=True))):
                return function(*arrays)

        compiled = jit_over_devices(pure, replicated=1)
        return lambda *arrays: compiled([variable.value for variable in model.variables], *arrays)

    def product(self, x: Tensor, kernel: Tensor) -> Tensor:
        # XLA's own gradient: with its transposition made explicit a step took 0.99 of the time: no gain.
        return x @ kernel

    def training_step(self, model: Any, optimizer: Any, loss: Callable[..., Tensor]) -> _JaxTrainingStep:
        return _JaxTrainingStep(model, optimizer, loss)

    def wait(self, value: Any) -> None:
        jax.block_until_ready(value)

    def device(self) -> Device:
        devices = jax.devices()
        kind = devices[0].platform
        # Parts of one processor are slower than the whole.
        training = 1 if kind == "cpu" else jax.local_device_count()
        return Device(kind, devices[0].device_kind, len(devices), training)

    def peak_memory(self) -> int | None:
        device = jax.local_devices()[0]
        if device.platform == "cpu":
            return peak_resident_memory()
        return (device.memory_stats() or {}).get("peak_bytes_in_use")

    def free_memory(self) -> None:
        jax.clear_caches()
        release_freed_memory()


BACKEND = JaxBackend()
