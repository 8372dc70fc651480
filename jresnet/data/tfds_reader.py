"""Reader of data sets from TensorFlow Datasets, prepared on disk or downloaded.

TFDS and TensorFlow are imported only when a data set is read, so that everything else works without them.
"""

import contextlib
import difflib
import importlib
import logging
import math
import os
import pathlib
import re
import threading
import urllib.parse
from collections.abc import Iterator
from typing import Any

import numpy as np

from jresnet.config import Source
from jresnet.data import cache, memory
from jresnet.data.arrays import cifar
from jresnet.data.checks import check_test, used_classes
from jresnet.data.contents import Contents
from jresnet.data.images.resize import resized
from jresnet.data.mapped import size
from jresnet.errors import InputError, first_line
from jresnet.records.files import local_path

_NAME = re.compile(r"\w+(/[\w.+-]+)?(:\d+(\.(\d+|\*)){2})?")
_BATCH = 1000
_PROBE_SECONDS = 3.0


def directory_of(source: Source) -> str:
    """The directory of prepared data sets, absolute; InputError for a URL, as no network is asked for data."""
    if source.data_dir:
        return os.path.abspath(local_path(source.data_dir, "--data-dir"))
    return os.path.abspath(local_path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets", "TFDS_DATA_DIR"))


def is_prepared(name: str, directory: str) -> bool:
    """Whether a directory holds any version of a data set without configurations, prepared; TFDS is not needed."""
    return any(pathlib.Path(directory, name).glob("*/dataset_info.json"))


def read_tfds(source: Source) -> Contents:
    """Read an image-classification data set with TFDS, in stored order; download it if it is not prepared.

    The decoded arrays are cached, and read from the cache, without TensorFlow, while the prepared files are the same.
    The name is "name" or "name/config", either with an optional ":version". Images of different sizes are resized to
    `source.image_size`. Classes that no training image has are left out.

    Raises:
      InputError: TFDS is not installed or does not have this data set, the data are not prepared and cannot be
        downloaded, they are not images with class labels, or images differ in size and no size is given.
    """
    directory = directory_of(source)
    try:
        with _quiet():
            return _read(source, directory)
    except InputError as error:
        other = cifar.remedy(source.dataset, directory)
        raise InputError(f"{error}{other}, or use npz:FILE, folder:DIR or --dataset synthetic") from None


def _read(source: Source, directory: str) -> Contents:
    name = source.dataset
    tfds = _import("tensorflow_datasets")
    builder = _builder(tfds, name, directory)
    _check_features(tfds, builder)
    if not builder.is_prepared():
        _prepare(builder, directory)
    splits = _splits(builder)
    check_test(source, splits)
    files = sorted(path for path in pathlib.Path(builder.data_dir).iterdir() if path.is_file())
    key = f"{builder.name}-{cache.digest(files)}{_resizing(source, builder)}"
    decoded = cache.load(key)
    if decoded is None:
        decoded = _decode(tfds, builder, splits, source)
        cache.store(key, decoded)
    arrays = {split: (decoded[f"{split}_images"], decoded[f"{split}_labels"]) for split in splits}
    return used_classes(Contents(arrays, tuple(builder.info.features["label"].names)), builder.info.full_name)


def _sizes_differ(builder: Any) -> bool:
    """Whether the images may differ in size, as far as the features say."""
    return None in builder.info.features["image"].shape


def _resizing(source: Source, builder: Any) -> str:
    """What the decoded arrays depend on besides the files, for the name in the cache."""
    if source.image_size is None or not _sizes_differ(builder):
        return ""
    height, width = source.image_size
    return f"-{height}x{width}-{source.resize}-{'-'.join(map(str, source.background))}"


def _decode(tfds: Any, builder: Any, splits: list[str], source: Source) -> dict[str, np.ndarray]:
    """Decode the splits with TensorFlow, into arrays named SPLIT_images and SPLIT_labels."""
    tensorflow = _import("tensorflow")
    arrays = {}
    try:
        for split in splits:
            arrays[f"{split}_images"], arrays[f"{split}_labels"] = _read_split(tfds, builder, split, source)
        return arrays
    except tensorflow.errors.OpError as error:
        message = f"{builder.data_dir} is damaged ({first_line(error)}): remove it and prepare it again"
        raise InputError(message) from None


def import_tensorflow() -> Any:
    """Import TensorFlow without its log messages and without GPUs, whose memory it would take from JAX."""
    _set_quiet()
    import tensorflow

    with contextlib.suppress(RuntimeError):
        tensorflow.config.set_visible_devices([], "GPU")
    return tensorflow


def _set_quiet() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # oneDNN's notice ignores the level above; reading images does not use oneDNN.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the log messages of TensorFlow and TFDS below the level of errors."""
    _set_quiet()
    loggers = [logging.getLogger(name) for name in ("absl", "tensorflow", "tensorflow_datasets")]
    levels = {logger: logger.level for logger in loggers}
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _import(module: str) -> Any:
    try:
        return import_tensorflow() if module == "tensorflow" else importlib.import_module(module)
    except ImportError as error:
        package = module.replace("_", "-")
        message = f"reading it needs {package}, which cannot be imported ({error}): pip install {package}"
        raise InputError(message) from None


def _builder(tfds: Any, name: str, directory: str) -> Any:
    try:
        # With other forms TFDS would search community registries over the network.
        if _NAME.fullmatch(name):
            with _own_features(tfds):
                return tfds.builder(name, data_dir=directory)
    except tfds.core.DatasetNotFoundError:
        pass
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"TFDS cannot open it ({first_line(error)}): correct the name") from None
    known = tfds.list_builders(with_community_datasets=False)
    close = difflib.get_close_matches(name.lower(), known)
    hint = f" (close: {', '.join(close)})" if close else ""
    raise InputError(f"TFDS has no such data set, {name!r}{hint}: correct the name")


@contextlib.contextmanager
def _own_features(tfds: Any) -> Iterator[None]:
    """Refuse features that are not TFDS's own: of any that a features.json names, TFDS imports the module."""
    connector = tfds.features.FeatureConnector
    find, original = connector.cls_from_name, vars(connector)["cls_from_name"]

    def find_own(name: str) -> Any:
        if not name.startswith("tensorflow_datasets."):
            raise InputError(f"its features.json names {name}, which is not part of TFDS and could run any code")
        return find(name)

    connector.cls_from_name = staticmethod(find_own)
    try:
        yield
    finally:
        connector.cls_from_name = original


def _prepare(builder: Any, directory: str) -> None:
    """Download a data set, or refuse within _PROBE_SECONDS if no host answers; TFDS would retry for over a minute."""
    urls = [urllib.parse.urlsplit(url) for url in builder.url_infos or {} if url.startswith("http")]
    hosts = sorted({f"{url.scheme}://{url.netloc}/" for url in urls})[:4]
    if hosts and not _any_answers(hosts):
        raise InputError(
            f"{builder.info.full_name} is not prepared in {directory}, and there is no "
            f"network to download it (no answer from {', '.join(hosts)}): set --data-dir or TFDS_DATA_DIR to "
            f"a directory that holds it prepared, connect to the network"
        )
    _import("tensorflow")
    try:
        builder.download_and_prepare()
    except Exception as error:
        raise InputError(
            f"TFDS could not prepare {builder.info.full_name} in {directory} "
            f"({first_line(error)}): prepare it with TFDS first"
        ) from None


def _any_answers(hosts: list[str]) -> bool:
    """Whether one of the hosts answers, with any status, within _PROBE_SECONDS."""
    import requests  # TFDS downloads with it, so that the same proxies are used

    answers = []

    def ask() -> None:
        for host in hosts:
            with contextlib.suppress(requests.RequestException):
                answers.append(requests.head(host, timeout=_PROBE_SECONDS))
                return

    # In a thread that may be abandoned, because name resolution has no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return bool(answers)


def _check_features(tfds: Any, builder: Any) -> None:
    features = builder.info.features
    if not (
        isinstance(features, tfds.features.FeaturesDict)
        and {"image", "label"} <= set(features)
        and isinstance(features["image"], tfds.features.Image)
        and isinstance(features["label"], tfds.features.ClassLabel)
    ):
        raise InputError(
            "its features are not one image and one class label, named image and label: "
            "choose an image-classification data set"
        )


def _splits(builder: Any) -> list[str]:
    available = list(builder.info.splits)
    if "train" not in available:
        raise InputError(f"its splits are {', '.join(available)}, but train is needed: choose another data set")
    return [split for split in ("train", "validation", "test") if split in available]


def _check_memory(builder: Any, split: str) -> None:
    """Refuse images that do not fit into memory, where the features say how large they are."""
    shape, images = builder.info.features["image"].shape, builder.info.splits[split].num_examples
    if None not in shape:
        size = 2 * images * math.prod(shape)  # in batches and, in the end, as one array too
        memory.check(f"while they are read, {images:,} {split} images of {shape[0]} x {shape[1]}", size)


def _read_split(tfds: Any, builder: Any, split: str, source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a split in stored order; TFDS decodes them in parallel."""
    _check_memory(builder, split)
    known_size = not _sizes_differ(builder)
    dataset = builder.as_dataset(
        split=split,
        shuffle_files=False,
        batch_size=_BATCH if known_size else 1,
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
        decoders=tfds.decode.PartialDecoding({"image": True, "label": True}),
    )
    batches: list[dict[str, np.ndarray]] = []
    for batch in tfds.as_numpy(dataset):
        if source.image_size and not known_size:
            image = np.broadcast_to(batch["image"][0], (*batch["image"].shape[1:3], 3))
            batch["image"] = resized(image, source.image_size, source.resize, source.background)[None]
        batches.append(batch)
        first, last = batches[0]["image"], batch["image"]
        if last.shape[1:] != first.shape[1:]:
            raise InputError(
                f"its {split} images differ in size, {size(first)} and {size(last)} (height x width): "
                "give --image-size H W, to which they are resized"
            )
    if not batches:
        raise InputError(f"its {split} split holds no images: prepare it again")
    return np.concatenate([batch["image"] for batch in batches]), np.concatenate([batch["label"] for batch in batches])
