"""Options at and beyond every limit: built or refused in one line, at once, before anything is written."""

import dataclasses
import math
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from experiments import cross_validation, final, reproduce, width
from experiments.study import options, single, sweep
from jresnet import models
from jresnet.config import Config
from jresnet.data.datasets import Split
from jresnet.errors import InputError
from jresnet.train.loop import fit
from tests.support import runs
from tests.support.studies import TINY, tiny_npz, tree

SECONDS = 3.0
"""For a refusal, which takes a tenth of one here; what this file guards against took minutes, or never ended."""

FIELDS = sorted(field.name for field in dataclasses.fields(Config))
FLOATS = sorted(field.name for field in dataclasses.fields(Config) if field.type in (float, float | None))
# Whatever JSON may hold, Python's tuples, and the numbers at which 32-bit arithmetic ends.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31 - 1, 2**31, 2**63, 10**400])
    | st.floats()
    | st.sampled_from([1e-50, 1.2e-38, 1e-38, 3.4e38, 1e39, 1 - 1e-12, 5e-324])
    | st.text()
    | st.sampled_from(["resnet18", "auto", "1e39", "a\nb", "\x85"])
)
VALUES = st.recursive(
    SCALARS, lambda values: st.lists(values) | st.lists(values).map(tuple) | st.dictionaries(st.text(), values),
    max_leaves=4,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=2))
@example({"width": "8"})
@example({"epochs": 1.5})
@example({"blocks": [2, 2]})
@example({"nesterov": 1})
@example({"kernel_size": (3, True)})
@example({"kernel_size": (3,) * 10_000})
@example({"model": ["resnet18"]})
@example({"dataset": None})
@example({"data_dir": {}})
@example({"learning_rate": 10**10})
def test_any_value_builds_a_configuration_or_is_refused_in_one_line(values):
    started = time.monotonic()
    try:
        config = Config(**values)
    except InputError as error:
        message = str(error)
        assert len(message.splitlines()) == 1 and ": must " in message and len(message) < 600
        assert any(message.startswith(f"--{name.replace('_', '-')}") for name in values)
    else:
        hash(config)
        for name in FLOATS:
            value = getattr(config, name)
            if value is not None:
                rounded = np.float32(value)  # a warning, which is an error here, if it overflows
                assert math.isfinite(rounded) and (rounded == 0) == (value == 0)
        assert np.float32(config.momentum) < 1
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("name", ["width", "model", "budget", "flip", "learning_rate", "nesterov", "kernel_size"])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_integer_too_long_to_print_is_refused_in_one_line(name, sign):
    with pytest.raises(InputError, match=r"^--[a-z-]+ \(an integer of thousands of digits\): must [^\n]+$"):
        Config(**{name: sign * 10**5000})


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"width": "8"}, "int | None, not str"),
        ({"width": True}, "int | None, not bool"),
        ({"width": np.int64(8)}, "int | None, not int64"),
        ({"epochs": 1.5}, "int, not float"),
        ({"epochs": None}, "int, not NoneType"),
        ({"blocks": [2, 2]}, "tuple[int, ...] | None, not list"),
        ({"kernel_size": (3, "5")}, "int | tuple[int, ...] | None, not tuple of int and str"),
        ({"background": (1, 2.0, 3)}, "tuple[int, int, int], not tuple of int and float"),
        ({"flip": "0.5"}, "float, not str"),
        ({"flip": True}, "float, not bool"),
        ({"nesterov": 1}, "bool, not int"),
        ({"model": 18}, "str, not int"),
        ({"dataset": None}, "str, not NoneType"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_type_and_the_fields(values, kind):
    with pytest.raises(InputError) as caught:
        Config(**values)
    assert str(caught.value).endswith(f": must be of type {kind}")


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"background": (1, 2)}, "--background 1 2: must have 3 values, not 2"),
        ({"image_size": (8,)}, "--image-size 8: must have 2 values, not 1"),
        ({"image_size": ()}, "--image-size: must have 2 values, not 0"),
    ],
)
def test_a_tuple_of_another_length_is_refused_by_its_length(values, rule):
    with pytest.raises(InputError) as caught:
        Config(**values)
    assert str(caught.value) == rule


def test_numbers_that_are_subclasses_of_pythons_are_numbers():
    assert Config(learning_rate=np.float64(0.1)) == Config(learning_rate=0.1)
    assert Config(flip=1, warmup_epochs=0) == Config(flip=1.0, warmup_epochs=0.0)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current directory, with a valid .npz file."""
    tiny_npz(tmp_path / "tiny.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capfd, main, words):
    """The line with which a program refuses these words, at once and without writing."""
    before, started = tree("."), time.monotonic()
    status = main(words)
    seconds = time.monotonic() - started
    out, err = capfd.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1), (out, err)
    assert tree(".") == before
    assert seconds < SECONDS
    return err


RANGE = "from 1.2e-38 to 3.4e+38"
OPTIONS = {
    "--crop-padding 8": "must be below 8, the images' shorter side",
    "--crop-padding 2147483647": "choose at most 7",
    "--cutout 9": "must be at most 8, the images' shorter side",
    "--seeds 2147483648": "at most 10,000",
    "--seeds 10001": "makes 10,001 runs",
    "--seeds 99999999999999999999999999": "at most 10,000",
    "--first-seed 4294967296": "from 0 to 2**32 - 1",
    "--first-seed -1": "from 0 to 2**32 - 1",
    "--processes 2147483648": "at most 256",
    "--epochs 2147483647": "makes 6,442,450,941 updates of 36 images",
    "--train-images 2147483648": "from 1 to 36",
    "--test-images -2147483648": "from 1 to 15",
    "--validation 2147483647": "below 36",
    "--budget 99999999999999999999": "below 2**63",
    "--blocks 999": "at most 600 blocks",
    "--blocks 999 999 999 999": "at most 600 blocks",
    "--workdir=": "must name a directory",
    "--blocks 300 300 --width 64": "choose --width 13 or less",
    "--blocks 1 1 1 1 1 1 1 1 1 1 1": "at most 10",
    "--width 2147483647": "over the budget of",
    "--kernel-size 2147483647": "over the budget of",
    "--num-processes 0": "at least 1",
    "--learning-rate 1e39": RANGE,
    "--learning-rate 1e-50": RANGE,
    "--learning-rate 1e400": "finite number above 0",
    "--weight-decay 1e300": RANGE,
    "--weight-decay 1e-45": RANGE,
    "--flip nan": "probability",
    "--grayscale 1e-39": RANGE,
    "--dropout 0.99999999999": "below 1",
    "--momentum 0.99999999999": "below 1",
    "--warmup-epochs 1e-320": RANGE,
}  # fmt: skip


@pytest.mark.parametrize("words", OPTIONS)
def test_an_experiment_judges_every_option_at_once(here, capfd, words):
    line = refused(capfd, partial(single.main, "final", final.CONFIG), [*TINY, *words.split()])
    assert line.startswith("--") and OPTIONS[words] in line


IMPOSSIBLE = {
    "--width 2147483647": "lower --width",
    "--kernel-size 2147483647": "lower --width, --blocks, --kernel-size",
    "--channel-multiple 2147483647": "or --channel-multiple",
    "--width 2147483647 --blocks 60 60 60 60 60 60 60 60 60 60 --pool-size 1": "lower --width",
}


@pytest.mark.parametrize("words", IMPOSSIBLE)
def test_without_a_budget_a_network_beyond_every_memory_is_refused(here, capfd, words):
    line = refused(capfd, partial(single.main, "final", final.CONFIG), [*TINY, "--budget", "None", *words.split()])
    assert "parameters with these options, and at most 68,719,476,736 can be trained" in line
    assert IMPOSSIBLE[words] in line


@pytest.mark.parametrize("seeds", ["--seeds 1", "--seeds 2", "--seeds 2 --processes 2 --parallel jit"])
@pytest.mark.parametrize("wrong", ["--crop-padding 8", "--pool-size 5", "--epochs 2147483647"])
def test_no_directory_is_claimed_however_the_runs_are_made(here, capfd, seeds, wrong):
    words = [*TINY, *seeds.split(), *wrong.split(), "--workdir", "new"]
    assert refused(capfd, partial(single.main, "final", final.CONFIG), words).startswith(f"{wrong}: ")


QUICK = ["--quick", "--dataset", "npz:tiny.npz", "--workdir", "new"]
PROGRAMS = {
    ("width", "--seeds 2147483648"): "at most 10,000",
    ("width", "--seeds 10000"): "makes 30,000 runs",
    ("width", "--crop-padding 8 --pool-size 1"): "must be below 8",
    ("reproduce", "--seeds 2147483648"): "at most 10,000",
    ("reproduce", "--seeds 10000 --train-images 36 --test-images 15 --validation 6"): "makes 260,000 runs",
    ("reproduce", "--processes 2147483648"): "at most 256",
    ("reproduce", "--shard 1/99999999999999999999"): "must be i/n",
    ("cross_validation", "--folds 2147483648"): "at most 100",
    ("cross_validation", "--folds 101"): "at most 100",
    ("cross_validation", "--crop-padding 8 --pool-size 1 --folds 2"): "must be below 8",
}


@pytest.mark.parametrize(("program", "words"), PROGRAMS)
def test_a_study_judges_its_runs_at_once(here, capfd, program, words):
    mains = {"reproduce": reproduce.main, "cross_validation": cross_validation.main}
    main = mains.get(program, partial(sweep.main, width.EXPERIMENT))
    assert PROGRAMS[program, words] in refused(capfd, main, [*QUICK, *words.split()])


def test_a_grid_of_too_many_settings_is_refused_before_it_is_multiplied_out(here, capfd):
    values = ",".join(map(str, range(1, 100)))
    axes = [f"{name}={values}" for name in ("width", "batch-size", "epochs", "warmup-epochs", "channel-multiple")]
    line = refused(capfd, cross_validation.main, [*QUICK, "--grid", *axes])
    assert "makes 57,059,402,994 runs" in line


def test_as_many_runs_as_allowed_are_judged_soon(here, monkeypatch):
    class Begun(Exception):
        """The first run has begun."""

    def begin(*_, **__):
        raise Begun

    monkeypatch.setattr(single.loop, "fit", begin)
    started = time.monotonic()
    with pytest.raises(Begun):
        single.run("final", final.CONFIG, [*TINY, "--seeds", str(options.MAX_RUNS)])
    assert time.monotonic() - started < 10


def full_count(model, side):
    """Parameters by tracing every block."""
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize("name", models.VARIANTS)
def test_counting_two_blocks_of_a_stage_counts_all(name):
    stages = len(models.VARIANTS[name]().stage_sizes)
    model = models.VARIANTS[name](stage_sizes=(4, 1, 3, 2)[:stages], pool_size=1)
    assert models.parameter_count(model, (32, 32)) == full_count(model, 32)


def test_the_largest_networks_are_counted_at_once():
    started = time.monotonic()
    count = models.check_network(Config(blocks=(150,) * 4, width=4), 10, (32, 32))
    assert time.monotonic() - started < SECONDS
    usual = models.check_network(Config(width=4), 10, (32, 32))
    # A further block has two convolutions of 3 x 3, each with a normalisation.
    assert count == usual + 148 * sum(2 * (9 * channels**2 + 2 * channels) for channels in (4, 8, 16, 32))


@pytest.mark.parametrize(
    ("model", "budget", "blocks"),
    [
        ("resnet20", 100_000, None),
        ("resnet_se443", 2_000_000, None),
        ("wide_resnet16_8", 5_000, None),
        ("imagenet_resnet50", 3_000_000, (299, 299, 1, 1)),
    ],
)
def test_the_width_of_the_message_is_the_largest_that_fits(model, budget, blocks):
    started = time.monotonic()
    with pytest.raises(InputError) as caught:
        models.check_network(Config(model=model, budget=budget, width=2**31 - 1, blocks=blocks), 10, (32, 32))
    assert time.monotonic() - started < SECONDS
    fitting = int(str(caught.value).split("choose --width ")[1].split()[0])
    size = partial(models.check_network, num_classes=10, image_size=(32, 32))
    assert size(Config(model=model, width=fitting, blocks=blocks)) <= budget
    assert size(Config(model=model, width=fitting + 1, blocks=blocks)) > budget


def test_no_width_below_the_squeeze_is_offered():
    with pytest.raises(InputError, match="choose fewer --blocks"):
        models.check_network(Config(model="resnet_se443", budget=1000), 10, (32, 32))


@pytest.mark.parametrize("policy", [{"trivialaugment": True}, {"randaugment": (2, 9)}])
def test_operators_are_refused_where_the_sum_of_gray_levels_passes_32_bits(policy):
    """255 * 2**23 is below 2**31. The images are views of one pixel."""
    config = dataclasses.replace(runs.CONFIG, **policy)

    def check(side):
        split = Split(np.broadcast_to(np.zeros((), np.uint8), (3, 2**13, side, 3)), np.arange(3, dtype=np.int32))
        models.check_training(config, dataclasses.replace(runs.make_dataset(), train=split, test=split))

    message = f"^--{next(iter(policy))}: takes images of at most 8,388,608 pixels, and these have 8192 x 1025"
    with pytest.raises(InputError, match=message):
        check(2**10 + 1)
    with pytest.raises(InputError, match="one and the same colour"):  # the next rule
        check(2**10)


def test_the_largest_padding_leaves_a_pixel_of_the_image_in_every_crop(tmp_path):
    dataset = runs.make_dataset()
    models.check_training(dataclasses.replace(runs.CONFIG, crop_padding=7), dataset)
    split = Split(dataset.train.images[:, :3], dataset.train.labels)
    low = dataclasses.replace(dataset, train=split, test=split)
    config = dataclasses.replace(runs.CONFIG, crop_padding=3, pool_size=2)
    with pytest.raises(InputError, match=r"--crop-padding 3: must be below 3, .*: choose at most 2"):
        fit(config, low, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("images", "batch_size", "batch_norm", "devices", "refused"),
    [
        (72, 71, "synchronised", 1, True),
        (72, 70, "synchronised", 1, False),
        (72, 1, "synchronised", 1, True),
        (72, 72, "synchronised", 1, False),
        (72, 70, "local", 2, True),
        (72, 69, "local", 2, True),
        (72, 68, "local", 2, False),
        (72, 8, "local", 8, True),
        (72, 24, "local", 8, False),
        (71, 24, "local", 8, False),
        (71, 64, "local", 4, True),
    ],
)
def test_a_batch_with_one_value_per_channel(images, batch_size, batch_norm, devices, refused):
    """Images per device in the last batch: 72 = 70 + 2 has 1, 1; 72 = 69 + 3 has 2, 1; 71 = 64 + 7 has 2, 2, 2, 1."""
    config = dataclasses.replace(runs.CONFIG, pool_size=1, batch_size=batch_size, batch_norm=batch_norm)
    dataset = runs.make_dataset(train=images)
    check = partial(models.check_training, dataset=dataset, devices=devices)
    # With one stage less the last feature map has four cells.
    check(dataclasses.replace(config, blocks=(1,) * 3))
    config = dataclasses.replace(config, blocks=(1,) * 4)
    if not refused:
        check(config)
        return
    with pytest.raises(InputError, match=rf"--batch-size {batch_size}: leaves 1 of {images} training images"):
        check(config)
