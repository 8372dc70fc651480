"""Comparisons that several tests share: gradients, closeness relative to the largest entry, uniformity."""

import jax
import numpy as np


def with_gradients(function, x, kernel, dy):
    y, pullback = jax.vjp(function, x, kernel)
    return y, *pullback(dy)


def assert_close(actual, expected, relative):
    """Every entry within `relative` times the largest expected one."""
    for have, want in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert have.shape == want.shape
        np.testing.assert_allclose(have, want, rtol=0, atol=relative * max(np.abs(want).max(), 1e-3))


def assert_uniform(values, bound):
    """Drawn from U(-bound, bound): within it, up to it, with its variance to 5 standard errors."""
    values = np.asarray(values, np.float64).ravel()
    error = np.sqrt((1 / 5 - 1 / 9) / values.size)
    assert np.abs(values).max() <= bound
    assert np.abs(values).max() > bound * (1 - 10 / values.size)
    assert abs(values.mean()) < 5 * bound * np.sqrt(1 / 3 / values.size)
    assert abs((values**2).mean() / bound**2 - 1 / 3) < 5 * error
