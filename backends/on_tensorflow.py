"""TensorFlow: graphs compiled by XLA; variables hold the state, so nothing needs writing back."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

from trajworld.backend import Device, Tensor

from .host_memory import peak_resident_memory, release_freed_memory
from .one_device import InPlaceStep, OneDevice, tensors

# Not a GPU's short float32, as on the other backends: use mixed_bfloat16 for that speed.
tf.config.experimental.enable_tensor_float_32_execution(False)
# Each size of M is traced once; TensorFlow warns of that.
tf.get_logger().addFilter(lambda record: "triggered tf.function retracing" not in record.getMessage())


class TensorFlowBackend(OneDevice):
    """See :class:`trajworld.backend.Backend`."""

    name = "tensorflow"

    def compile(self, function: Callable[..., Any], model: Any) -> Callable[..., Any]:
        compiled = tf.function(function, jit_compile=True, autograph=False)
        # Tensors: a call is traced for its shapes, not for its values.
        return lambda *arrays: compiled(*tensors(arrays))

    def product(self, x: Tensor, kernel: Tensor) -> Tensor:
        return tf.matmul(x, kernel)

    def training_step(self, model: Any, optimizer: Any, loss: Callable[..., Tensor]) -> InPlaceStep:
        variables = model.trainable_variables
        optimizer.build(variables)

        @tf.function(jit_compile=True, reduce_retracing=False)
        def step(*arrays: Any) -> Tensor:
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([variable.value for variable in variables])
                value = loss(*arrays)
            gradients = tape.gradient(value, [variable.value for variable in variables])
            # An embedding's gradient comes as its lookups, and the norm that clips would count repeated ones apart.
            gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
            optimizer.apply(gradients, variables)
            return value

        return InPlaceStep(optimizer, step)

    def wait(self, value: Any) -> None:
        # Reading a tensor is what waits for it; the values themselves are not needed.
        tf.nest.map_structure(lambda tensor: tensor.numpy(), value)

    def device(self) -> Device:
        accelerators = tf.config.list_physical_devices("GPU")
        if accelerators:
            details = tf.config.experimental.get_device_details(accelerators[0])
            return Device("gpu", details.get("device_name", "gpu"), len(accelerators))
        return Device("cpu", "cpu", 1)

    def peak_memory(self) -> int | None:
        if tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"]
        return peak_resident_memory()

    def free_memory(self) -> None:
        context.context().clear_kernel_cache()
        release_freed_memory()


BACKEND = TensorFlowBackend()
