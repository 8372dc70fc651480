"""The examples in the docstrings of the public API run as they stand."""

import doctest

import pytest

import jresnet

NAMES = ("Classifier", "evaluate", "fit", "load_dataset", "resnet18", "torch_weights.from_state_dict")


@pytest.mark.parametrize("name", NAMES)
def test_the_docstrings_examples_run(name):
    documented = jresnet
    for part in name.split("."):
        documented = getattr(documented, part)
    (example,) = (
        test for test in doctest.DocTestFinder(recurse=False).find(documented, name, globs={}) if test.examples
    )
    assert doctest.DocTestRunner().run(example).failed == 0
