"""Every member of the family computes and trains as in PyTorch, from random weights and random running statistics.

What is compared, every array by its largest error relative to its largest entry: logits in evaluation
mode; logits, loss, all gradients and the updated running statistics in training mode; all parameters
and statistics after twenty steps of SGD. Both libraries get the same weights and images, exact in
float32, and PyTorch's result in float64 is the truth for both precisions.
"""

import dataclasses
from functools import partial
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jresnet
from jresnet.config import Config, Model
from jresnet.models import torch_weights
from jresnet.train.optim import optimizer
from jresnet.train.state import TrainState
from jresnet.train.step import make_train_step

torch = pytest.importorskip("torch")

from tests.support.torch_family import FAMILY, randomise  # noqa: E402

CLASSES, IMAGES = 7, 4
RUN = Config(epochs=4, momentum=0.9, weight_decay=5e-4)
STEPS = 5  # per epoch: 20 in all
# Compilation is most of these tests' time, and without LLVM's optimisations it takes half as long.
compile_fast = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """More threads cost PyTorch more than they save in networks as narrow as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclasses.dataclass(frozen=True)
class Case:
    """A member of the family, and what is changed of it in both libraries alike.

    Attributes:
      name: of the member in `FAMILY`; " B" follows where its shortcuts are not its paper's.
      side: of its square images, in pixels.
      changed: options, as pairs.
      bias: mean and standard deviation of the random biases.
      learning_rate: of the steps taken.
    """

    name: str
    side: int
    changed: tuple[tuple[str, object], ...] = ()
    bias: tuple[float, float] = (0.0, 1.0)
    learning_rate: float = 0.02

    def theirs(self):
        """PyTorch's network in float32; without dropout, whose masks no two libraries share."""
        torch.manual_seed(0)
        network = randomise(FAMILY[self.name](**dict(self.changed)), self.bias)
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return network

    def ours(self, dtype):
        member, _, option = self.name.partition(" ")
        options = {"B": {"shortcut": "projection"}, "pool": {"stem": "small-pool", "pool_size": None}}.get(option, {})
        return getattr(jresnet, member)(**dict(self.changed), **options, dtype=dtype, param_dtype=dtype)

    def variables(self, dtype):
        return torch_weights.from_state_dict(self.theirs().state_dict(), self.ours(dtype), (self.side, self.side))

    def named(self, variables):
        """Variables, or gradients of the same structure, by PyTorch's names."""
        return torch_weights.to_state_dict(variables, self.ours(jnp.float32), self.layout, (self.side, self.side))

    @property
    def layout(self):
        return "torchvision" if self.name.startswith("imagenet") else "kuangliu"

    def __str__(self):
        return "-".join(map(str, (self.name, self.side, *(value for _, value in self.changed))))


def case(name, side, **changed):
    return Case(name, side, (("num_classes", CLASSES), *changed.items()))


def slow(cases):
    return [pytest.param(case, marks=pytest.mark.slow) for case in cases]


# One of each kind, cut to what sets it apart: a block that keeps the shape, and one that changes it. So short,
# ResNet-20 with option B is ResNet-18.
narrow = partial(case, width=4)
short = partial(narrow, stage_sizes=(1, 2))
KINDS = [
    short("resnet18", 8),
    short("resnet50", 8),
    short("preact_resnet18", 8),
    short("resnet20", 8),
    short("wide_resnet16_8", 8, stem_width=2),
    short("imagenet_resnet18", 32),
    short("imagenet_resnet50", 32),
    short("resnet_se443", 8, squeeze=2),
]
# What no member has: odd counts of channels to pad, odd images, kernels that differ by stage.
OPTIONS = [
    short("resnet20", 9, width=3),
    short("imagenet_resnet18", 45),
    short("resnet18", 8, kernel_size=(5, 3)),
]
# Every member in its full depth. With biases around 0 some channels of networks as narrow as these are dead
# or nearly so, batch normalisation divides by their tiny spread, and over fifty layers and twenty steps
# rounding grows from 1e-16 to 1e-3, in PyTorch as here. With biases above 0 more units are active.
DEEP = [
    dataclasses.replace(case, bias=(0.7, 0.5), learning_rate=0.001)
    for case in (
        *(narrow(f"resnet{depth}", 16, pool_size=2) for depth in (18, 34, 50, 101, 152)),
        narrow("resnet18 pool", 32),
        narrow("preact_resnet18", 16, pool_size=2),
        *(narrow(f"resnet{depth}{option}", 8) for option in ("", " B") for depth in (20, 32, 44, 56, 110)),
        *(narrow(name, 8, stem_width=2) for name in ("wide_resnet16_8", "wide_resnet28_10")),
        *(narrow(name, 64) for name in ("imagenet_resnet18", "imagenet_resnet50")),
        narrow("resnet_se443", 8, width=16),
    )
]
# As published.
PUBLISHED = [Case(case.name, 64 if case.layout == "torchvision" else 32) for case in DEEP]


def test_no_member_is_left_out():
    ours = set(get_args(Model))
    assert {name.partition(" ")[0] for name in FAMILY} == ours
    assert {case.name for case in DEEP} == FAMILY.keys()


@pytest.mark.parametrize("case", PUBLISHED, ids=str)
def test_names_shapes_and_dropout_are_the_published_networks(case):
    with torch.device("meta"):
        network = FAMILY[case.name]()
    rates = {module.p for module in network.modules() if isinstance(module, torch.nn.Dropout)} or {0.0}
    assert rates == {case.ours(jnp.float32).block_dropout}
    tensors = network.state_dict().items()
    expected = {name: tuple(tensor.shape) for name, tensor in tensors if tensor.dtype.is_floating_point}
    assert torch_weights.expected(case.ours(jnp.float32), (case.side, case.side), case.layout)[1] == expected


def draw_batch(side, seed):
    """Normalised images in float32, and labels."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(IMAGES, side, side, 3)).astype(np.float32), rng.integers(CLASSES, size=IMAGES)


def to_torch(images, labels):
    # In PyTorch's own order of memory: with channels last, its float32 gradients of strided 1x1 convolutions
    # of few channels are wrong on CPUs (github.com/uxlfoundation/oneDNN/issues/6035).
    return torch.tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2))), torch.tensor(labels)


def measure_theirs(network, batch):
    """What PyTorch computes from a batch in the network's precision, as float64 arrays by name."""
    images, labels = to_torch(*batch)
    images = images.to(next(network.parameters()).dtype)
    evaluated = network.eval()(images)
    logits = network.train()(images)
    loss = torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    slopes = {name: parameter.grad for name, parameter in network.named_parameters()}
    tensors = {"evaluation": evaluated, "logits": logits, "loss": loss} | slopes | dict(network.named_buffers())
    return {name: tensor.detach().double().numpy() for name, tensor in tensors.items()}


def program(model):
    """(variables, images, labels) -> ({"evaluation", "logits", "loss"}, {"params": gradients, "batch_stats": new})."""
    model = model.clone(block_dropout=0.0)

    def run(variables, images, labels):
        def mean_loss(params):
            logits, updates = model.apply(variables | {"params": params}, images, train=True, mutable=["batch_stats"])
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
            return loss, (logits, updates["batch_stats"])

        evaluated = model.apply(variables, images, train=False)
        (loss, (logits, new)), gradients = jax.value_and_grad(mean_loss, has_aux=True)(variables["params"])
        return {"evaluation": evaluated, "logits": logits, "loss": loss}, {"params": gradients, "batch_stats": new}

    return run


def measure_ours(case, dtype, run, batch):
    """What jresnet computes of the same, by the same names."""
    outputs, changes = run(case.variables(dtype), jnp.asarray(batch[0], dtype), jnp.asarray(batch[1]))
    return outputs | case.named(changes)


def errors(ours, expected):
    """The largest error of every array expected, relative to its largest entry."""
    compared = {name: np.abs(want).max() for name, want in expected.items() if not name.endswith("batches_tracked")}
    differences = {name: np.asarray(ours[name], np.float64) - expected[name] for name in compared}
    return {name: np.abs(differences[name]).max() / (size or 1.0) for name, size in compared.items()}


def check(ours, expected, tolerance):
    wrong = {name: error for name, error in errors(ours, expected).items() if not error <= tolerance}
    assert not wrong


# imagenet_resnet50 has the blocks of resnet50 and the stem of imagenet_resnet18.
BOTH = short("imagenet_resnet50", 32)


@pytest.fixture(scope="module", params=[*(case for case in KINDS if case != BOTH), *slow([BOTH, *DEEP])], ids=str)
def member(request):
    """A case and its program in float64, compiled once for all that is tested of it."""
    return request.param, compile_fast(program(request.param.ours(jnp.float64)))


def test_one_batch_in_float64(member):
    case, run = member
    batch = draw_batch(case.side, 0)
    with jax.enable_x64():
        ours = measure_ours(case, jnp.float64, run, batch)
    check(ours, measure_theirs(case.theirs().double(), batch), 1e-10)


@pytest.mark.parametrize("case", OPTIONS, ids=str)
def test_options_in_float64(case):
    test_one_batch_in_float64((case, compile_fast(program(case.ours(jnp.float64)))))


@pytest.mark.parametrize(
    "case", [KINDS[0], *(pytest.param(case, marks=pytest.mark.slow) for case in KINDS[1:])], ids=str
)
def test_one_batch_in_float32(case):
    batch = draw_batch(case.side, 0)
    ours = measure_ours(case, jnp.float32, compile_fast(program(case.ours(jnp.float32))), batch)
    check(ours, measure_theirs(case.theirs().double(), batch), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", DEEP, ids=str)
def test_one_batch_in_float32_at_full_depth(case):
    """Operation by operation, which for deep networks takes less time than compilation.

    Over that many layers, float32 itself can leave more than 1e-5 in a gradient, in either library: 1.4e-5 here
    and 0.9e-5 in PyTorch for ResNet-101, 1.7e-5 and 1.4e-5 for ResNet-152, 1.2e-5 and 1.2e-5 for the wide
    ResNet-16-8, 1.1e-5 and 1.8e-5 for the ResNet-50 of ImageNet. Hence no more than thrice PyTorch's own.

    Batch 0 gives ResNet-50 a ReLU input of 1.5e-6, whose sign, and with it whole gradients, rounding changes.
    """
    batch = draw_batch(case.side, 1 if case.name == "resnet50" else 0)
    expected = measure_theirs(case.theirs().double(), batch)
    ours = measure_ours(case, jnp.float32, program(case.ours(jnp.float32)), batch)
    own = max(errors(measure_theirs(case.theirs(), batch), expected).values())
    check(ours, expected, max(1e-5, 3 * own))


def train_theirs(case, config):
    """All of PyTorch's tensors after the configured updates, in float64."""
    network = case.theirs().double().train()
    sgd = torch.optim.SGD(
        network.parameters(), config.learning_rate, config.momentum,
        weight_decay=config.weight_decay, nesterov=config.nesterov,
    )  # fmt: skip
    total = config.epochs * STEPS
    cosine = config.schedule == "cosine"
    course = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=total) if cosine else None
    for step in range(total):
        images, labels = to_torch(*draw_batch(case.side, step))
        sgd.zero_grad()
        torch.nn.functional.cross_entropy(network(images.double()), labels).backward()
        sgd.step()
        if course:
            course.step()
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def train_ours(case, run, config):
    """All of our variables after the same updates, by PyTorch's names."""
    variables, tx = case.variables(jnp.float64), optimizer(config, STEPS)

    @compile_fast
    def update(params, opt_state, gradients):
        updates, opt_state = tx.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    opt_state = tx.init(variables["params"])
    for step in range(config.epochs * STEPS):
        images, labels = draw_batch(case.side, step)
        _, changes = run(variables, jnp.asarray(images, jnp.float64), jnp.asarray(labels))
        params, opt_state = update(variables["params"], opt_state, changes["params"])
        variables = {"params": params, "batch_stats": changes["batch_stats"]}
    return case.named(variables)


def runs_of(case):
    """One run without and one with Nesterov's momentum, one at a constant and one at a cosine rate; pairs alternate."""
    schedules = ("constant", "cosine")
    if [*KINDS, *DEEP].index(case) % 2:
        schedules = schedules[::-1]
    run = dataclasses.replace(RUN, learning_rate=case.learning_rate)
    return [dataclasses.replace(run, nesterov=bool(n), schedule=schedule) for n, schedule in enumerate(schedules)]


def test_twenty_steps_of_sgd(member):
    case, run = member
    for config in runs_of(case):
        with jax.enable_x64():
            ours = train_ours(case, run, config)
        check(ours, train_theirs(case, config), 1e-9)


def test_the_training_step_itself_takes_them():
    case = KINDS[0]
    _, config = runs_of(case)
    with jax.enable_x64():
        variables, tx = case.variables(jnp.float64), optimizer(config, STEPS)
        state = TrainState(jnp.int32(0), **variables, opt_state=tx.init(variables["params"]), key=jax.random.key(0))
        train_step = compile_fast(make_train_step(case.ours(jnp.float64), tx))
        for step in range(config.epochs * STEPS):
            images, labels = draw_batch(case.side, step)
            batch = {"images": jnp.asarray(images, jnp.float64), "labels": jnp.asarray(labels, jnp.int32)}
            state, _ = train_step(state, batch)
        ours = case.named(state.variables)
    check(ours, train_theirs(case, config), 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("case", PUBLISHED, ids=str)
def test_logits_of_the_published_network(case):
    images, labels = (array[:1] for array in draw_batch(case.side, 0))
    with torch.no_grad():
        expected = case.theirs().double().eval()(to_torch(images, labels)[0].double()).numpy()
    for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.float64, 1e-10)):
        with jax.enable_x64(dtype == jnp.float64):
            logits = case.ours(dtype).apply(case.variables(dtype), jnp.asarray(images, dtype), train=False)
        check({"logits": logits}, {"logits": expected}, tolerance)
