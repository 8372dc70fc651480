"""StableHLO by `jax.export`: one program for CPUs and CUDA that holds its weights, and that JAX alone runs."""

import contextlib
from collections.abc import Iterator
from functools import partial

import jax
from jax import export

from jresnet.use.classifier import Classifier
from jresnet.use.inference import any_images, probabilities

PLATFORMS = ("cpu", "cuda")


def program(classifier: Classifier) -> bytes:
    """The program of `Classifier.predict` without resizing, serialized for `jax.export.deserialize`.

    It has the plain convolutions, which every platform compiles, and takes any number of images. The same weights
    give the same bytes.
    """
    predict = jax.jit(partial(probabilities(classifier.model, classifier.run), classifier.variables))
    with _without_locations():
        exported = export.export(predict, platforms=PLATFORMS)(any_images(classifier.run))
        return bytes(exported.serialize())


@contextlib.contextmanager
def _without_locations() -> Iterator[None]:
    """Leave out of a program where in which source file its operations stand, as paths of this machine."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)
