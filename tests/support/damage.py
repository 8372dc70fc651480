"""Generators of damage: command lines as a hurried user types them, files as a bad disk or an editor leaves them.

Command lines are Hypothesis' strategies, for `fuzz`. Damage is a function of a `random.Random`, for `repeat`:
Hypothesis, which varies what it has drawn, would damage a file the same way in half of the cases.
"""

import contextlib
import json
import random
import resource
import signal

import hypothesis
from hypothesis import strategies as st

from jresnet.errors import InputError

SECONDS = 10
"""For one case."""
ROOM = 2**31
"""Bytes that all cases of a test may allocate together."""


def fuzz(check, examples, strategy):
    """Call `check` with so many values of a strategy, other ones for each number of them."""
    settings = hypothesis.settings(
        max_examples=examples, database=None, suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )  # fmt: skip
    with bounded():
        settings(hypothesis.seed(examples)(hypothesis.given(strategy)(lambda case: timed(check, case))))()


def repeat(check, examples, make):
    """Call `check` with so many values of `make(rng)`, other ones for each number of them."""
    with bounded():
        for number in range(examples):
            case = make(random.Random(f"{examples} {number}"))
            try:
                timed(check, case)
            except BaseException as error:
                error.add_note(f"case {number} of {examples}: {case!r:.2000}")
                raise


def timed(check, case):
    """Call `check` with a case; AssertionError if that takes long."""
    signal.alarm(SECONDS)
    try:
        check(case)
    finally:
        signal.alarm(0)


@contextlib.contextmanager
def bounded():
    """Raise MemoryError in the block where this process asks for so much more memory, and let an alarm end a hang."""

    def ring(*_):
        raise AssertionError(f"takes longer than {SECONDS} s")

    with open("/proc/self/statm") as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()
    limits, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGALRM, ring)
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, handler)


def refused(call, *names):
    """What a call returns, and None; or None and its InputError's one line, which must contain one of the names."""
    try:
        return call(), None
    except InputError as error:
        message = str(error)
    assert "\n" not in message and message.count(": ") >= 1, message[:500]
    assert not names or any(str(name) in message for name in names), message[:500]
    return None, message


# Values on a command line: right, wrong, and absurd.
WORDS = (
    "", " ", "0", "1", "2", "3", "-0", "-1", "00", "0x10", "1_0", "1e3", "0.5", "1.", ".5", "-.5", "1e-400",
    "1e999", "-1e999",
    "nan", "NaN", "inf", "-inf", "Infinity", str(2**31), str(2**63), "9" * 4000, "9" * 5000, "٣", "\uff11", "½",
    "None", "none",
    "null", "True", "False", "true", "[1, 2]", "(1,)", "{}", "1,2", "1 2", "'1'", '"', "a\nb", "a\0b", "\x1b[31m",
    "\udcff",
    "\u202e", "é", "x" * 100_000, "-", "--", "-x", "=", "*", "~", "$HOME", "../..", "/dev/null", "cifar10", "npz:",
    "folder:x",
    "synthetic", "float32", "cosine", "auto", "pmap", "resnet18", "final", "1/2", "learning-rate=0.1,0.01",
)  # fmt: skip


def values():
    """A word of a command line that is not an option."""
    return st.one_of(
        st.sampled_from(WORDS),
        st.integers(-3, 300).map(str),
        st.integers().map(str),
        st.floats().map(repr),
        st.text(max_size=20),
    )


@st.composite
def misspelt(draw, flags):
    """An option's name, often not quite."""
    flag = draw(st.sampled_from(sorted(flags)))
    at = draw(st.integers(2, len(flag)))
    return draw(
        st.sampled_from([
            flag, flag, flag, flag[:at], flag[:at] + flag[at + 1 :], flag[:at] + flag[at - 1 :], flag.replace("-",
    "_"),
            flag[1:], flag.upper(), f"--no-{flag[2:]}", f"{flag} ", f"{flag}=",
        ])
    )  # fmt: skip


def command_lines(flags):
    """Words of a command line: options with any number of values, as in `--opt x y` and `--opt=x`."""
    separate = st.tuples(misspelt(flags), st.lists(values(), max_size=3)).map(lambda pair: [pair[0], *pair[1]])
    joined = st.tuples(misspelt(flags), values()).map(lambda pair: [f"{pair[0]}={pair[1]}"])
    stray = st.lists(values(), max_size=1)
    return st.lists(st.one_of(separate, joined, stray), max_size=4).map(
        lambda parts: [w for part in parts for w in part]
    )


# What stands in a JSON file where something else should: text, so that what JSON's writers refuse is there too.
TOKENS = (
    "null", "true", "false", "0", "1", "2", "-1", "-0.0", "0.0", "1.0", "0.5", "1.5", "1e308", "1e999", "1e-400",
    "NaN",
    str(2**31), str(2**53 + 1), str(2**63), "9" * 4000, "9" * 5000, "01", '""', '"0"', '" "',
    '"a\\nb"', '"\\u0000"', '"\\ud800"', '"\\u001b[31m"', '"../../.."', '"/"', '"."', "'a'", '"a',
    '"' + "x" * 2**20 + '"',
    "[]", "[0]", "[1, 1]", "[null]", "[[]]", '["a", "a"]', "{}", '{"version": 2}', '{"a": 1}', '{"a": 1, "a": 2}',
    "[" * 100_000,
    "[" * 100_000 + "]" * 100_000, "[" * 500 + "]" * 500, '{"a":' * 500 + "1" + "}" * 500, "",
)  # fmt: skip
_MARK = "7d1c0f: here"


def places(value):
    """Every place in a JSON value, as an object or a list and the name or the index in it."""
    names = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [(value, name) for name in names] + [place for name in names for place in places(value[name])]


def edited(rng, value):
    """The text of a JSON value in which one thing is replaced, dropped, renamed, doubled or added."""
    value = json.loads(json.dumps(value))
    token = rng.choice([*TOKENS, repr(2 * rng.random()), str(rng.randrange(10))])
    every = places(value)
    if not every or rng.random() < 0.05:
        return token
    inner = [(holder, name) for holder, name in every if isinstance(holder[name], dict | list)]
    holder, name = rng.choice(inner if inner and rng.random() < 0.3 else every)
    way = rng.choice(["replace", "replace", "replace", "drop", "rename", "double", "add", "version"])
    if way == "replace":
        holder[name] = _MARK
    elif way == "drop":
        del holder[name]
    elif way == "version":
        value["version"] = _MARK
    elif isinstance(holder, list):
        holder.append(_MARK)
    elif way == "rename":
        holder[rng.choice(["", "mixup", "\ud800", "a\nb", name.upper(), name[:-1]])] = holder.pop(name)
    elif way == "add":
        holder[rng.choice(["", "mixup", "__class__", "a\nb", "version"])] = _MARK
    text = json.dumps(value)
    if way == "double":  # of its two values one counts, if any
        text = text.replace(f"{json.dumps(name)}: ", f"{json.dumps(name)}: {token}, {json.dumps(name)}: ", 1)
    return text.replace(f'"{_MARK}"', token)


def every_edit(value):
    """The texts of a JSON value in which one thing is dropped, and those in which it is replaced by each token."""
    dropped, replaced = [], []
    for number in range(len(places(value))):
        copy = json.loads(json.dumps(value))
        holder, name = places(copy)[number]
        holder[name] = _MARK
        replaced += [json.dumps(copy).replace(f'"{_MARK}"', token) for token in TOKENS]
        del holder[name]
        dropped.append(json.dumps(copy))
    return dropped, replaced


def edited_line(rng, data):
    """JSON lines of which one is edited, dropped, doubled, emptied or in another place."""
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    if rng.random() < 0.5:
        lines[at] = edited(rng, json.loads(lines[at])).encode() + b"\n"
        return b"".join(lines)
    ways = lines[:at] + lines[at + 1 :], [*lines[: at + 1], *lines[at:]], lines[::-1], [*lines[:at], b"\n", *lines[at:]]
    return b"".join(rng.choice(ways))


def spoilt(rng, data):
    """The bytes of a file of which some are changed, lost or added; None for a directory in its place."""
    at = rng.randrange(len(data))
    flipped = bytearray(data)
    flipped[at] ^= 1 << rng.randrange(8)
    noise = rng.randbytes(rng.randrange(1, 40))
    ways = [
        bytes(flipped), bytes(flipped), bytes(flipped), data[:at], data[at:], data[:at] + noise + data[at:],
        data[:at] + data[at + 1 :], b"", b"\n", b"\0" * len(data), noise, data + data, b"\xef\xbb\xbf" + data,
        data.decode("latin-1").encode("utf-16"), data.replace(b"\n", b"\r\n"), b" " * 2**20 + data, None,
    ]  # fmt: skip
    return rng.choice(ways)


def damaged(rng, path, data):
    """A file's content after one kind of damage, as its suffix admits; None for a directory in its place."""
    if path.suffix == ".json" and rng.random() < 0.7:
        return edited(rng, json.loads(data)).encode()
    if path.suffix == ".jsonl" and rng.random() < 0.7:
        return edited_line(rng, data)
    return spoilt(rng, data)


def put(path, content):
    """Write a file anew, or with None put a directory in its place."""
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if content is None else path.write_bytes(content)
