"""Data sets in folders of image files, one folder for each class."""

import os
from collections import Counter
from collections.abc import Collection, Iterable

import numpy as np
import PIL
import rich.console

from jresnet.config import Source
from jresnet.data import mapped
from jresnet.data.checks import check_test
from jresnet.data.contents import Contents
from jresnet.data.files import readable
from jresnet.data.images import decoded, image_file, layout
from jresnet.data.images.resize import resized
from jresnet.data.progress import warn
from jresnet.errors import InputError, listed, visible
from jresnet.records.files import local_path

_NAMED = 10
# To be raised whenever the same file becomes other pixels than before: decoded images are cached.
_RULES = 1


def read_folder(
    source: Source, console: rich.console.Console | None = None, classes: tuple[str, ...] | None = None
) -> Contents:
    """Read image files from train/<class>/, and from validation/<class>/ and test/<class>/ if there are such.

    The classes are the sub-folders of train in sorted order, the files of a class those in its folder and below. What
    lies there is read or refused; hidden files, those that systems leave, and lists beside the classes are passed over,
    which a warning says. Symbolic links are followed. Without train, `classes` are the classes, if they are given, and
    if there are no splits at all, their folders hold test images.

    Raises:
      InputError: no such layout, folders that cannot be read, files that are no readable images, all named at once,
        unequal sizes without `source.image_size`, or images that together exceed the machine's memory.
    """
    root = os.path.abspath(local_path(source.dataset.removeprefix("folder:")))
    with readable(root):
        found = layout.find(root, flat=source.holdout_test > 0, classes=classes)
    _check_labels(found, source)
    check_test(source, found.files)
    return _Reading(found, source, console).contents()


def _check_labels(found: layout.Layout, source: Source) -> None:
    """Refuse test images without classes, unless others are to be tested on."""
    if found.unlabelled:
        if not (source.test_from or source.holdout_test):
            others = ", or test on others with --test-from validation or --holdout-test N"
            raise InputError(
                f"the images in {found.unlabelled} are in no folders of {found.expected}, so they have no labels: "
                f"sort them into such{others if 'train' in found.files else ''}"
            )
        warn(f"the images in {found.unlabelled} have no labels and are left out")


class _Reading:
    """One reading of a folder.

    Attributes:
      found: the layout, to which files are added that turn out to be no readable images.
      notes: what is to be said of files that are read -> these files.
    """

    def __init__(self, found: layout.Layout, source: Source, console: rich.console.Console | None) -> None:
        self.found, self.source, self.console = found, source, console
        self.notes: dict[str, list[str]] = {}

    def contents(self) -> Contents:
        """Decode all images.

        Raises:
          InputError: as `read_folder`.
        """
        found, splits, names = self.found, {}, {}
        for split, (files, _) in found.files.items():
            if not files and (self.source.skip_unreadable or not found.refused):
                where = found.directories[split]
                raise InputError(f"there are no images in {where}: put them into {where}/<class>/, or remove it")
        paths = [path for files, _ in found.files.values() for path in files]
        with image_file.without_warnings():
            size = self.source.image_size or self.common_size(paths)
            paths = [path for path in paths if path not in found.refused]
            array, refused = decoded.decode_files(
                paths, lambda path: self.decode(path, size), size, self.settings(), self.console
            )
        found.refused |= {paths[index]: reason for index, reason in refused.items()}
        self.judge()
        if refused:
            array = mapped.select(array, np.delete(np.arange(len(array)), list(refused)))
        start = 0
        for split, (files, labels) in found.files.items():
            kept = [(path, label) for path, label in zip(files, labels, strict=True) if path not in found.refused]
            end = start + len(kept)
            splits[split] = mapped.select(array, slice(start, end)), np.array([label for _, label in kept], np.int32)
            names[split] = _relative(found.root, [path for path, _ in kept])
            start = end
        self.say()
        return Contents(splits, found.classes, _relative(found.root, sorted(found.refused)), names=names)

    def decode(self, path: str, size: tuple[int, int]) -> np.ndarray:
        pixels = self.pixels(path)
        if self.source.image_size is None and pixels.shape[:2] != size:
            raise InputError(f"its pixels are {pixels.shape[0]} x {pixels.shape[1]}, unlike its header")
        return resized(pixels, size, self.source.resize, self.source.background)

    def pixels(self, path: str) -> np.ndarray:
        def note(text: str) -> None:
            self.notes.setdefault(text, []).append(path)

        return image_file.pixels(path, self.source.background, note)

    def settings(self) -> str:
        """What determines the pixels besides the files."""
        resize = self.source.resize if self.source.image_size else None
        return f"rules {_RULES}, Pillow {PIL.__version__}, background {self.source.background}, resize {resize}"

    def common_size(self, paths: list[str]) -> tuple[int, int]:
        """(height, width) of all images, from their headers."""
        counts: Counter[tuple[int, int]] = Counter()

        def count(path: str) -> tuple[int, int] | None:
            try:
                return image_file.image_size(path)
            except InputError as error:
                self.found.refused[path] = str(error)
                return None

        counts.update(size for size in decoded.in_parallel(count, paths, "reading headers", self.console) if size)
        if len(counts) > 1:
            raise self.unequal(paths, counts)
        if not counts:
            self.judge()
            raise InputError(f"there are no images in {self.found.root} that can be read: repair them")
        return next(iter(counts))

    def unequal(self, paths: list[str], counts: Counter[tuple[int, int]]) -> InputError:
        """The refusal of images of several sizes, and of all else that is wrong with the files."""

        def check(path: str) -> None:
            try:
                self.pixels(path)
            except InputError as error:
                self.found.refused[path] = str(error)

        readable = [path for path in paths if path not in self.found.refused]
        decoded.in_parallel(check, readable, "checking images", self.console)
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        sizes = listed((f"{height} x {width} ({count:,})" for (height, width), count in ranked), _NAMED)
        height, width = ranked[0][0]
        besides = f"; besides, {self.refusal()}" if self.found.refused and not self.source.skip_unreadable else ""
        return InputError(
            f"its images have {len(counts):,} sizes (height x width, and how many): {sizes}: resize them with "
            f"--image-size, as in --image-size {height} {width}, and --resize crop, pad or stretch{besides}"
        )

    def judge(self) -> None:
        """Raise InputError for files that are refused, unless the user goes on without them."""
        if self.found.refused and not self.source.skip_unreadable:
            raise InputError(self.refusal())
        if self.found.refused:
            warn(f"{_count(self.found.refused)} left out: {self.reasons()}")

    def refusal(self) -> str:
        refused = self.found.refused
        if len(refused) == 1:
            ((path, reason),) = refused.items()
            return f"{path} cannot be used ({reason}): repair, move or remove it, or leave it out: --skip-unreadable"
        return (
            f"{len(refused):,} files cannot be used: {self.reasons()}: repair, move or remove them, or leave them out: "
            "--skip-unreadable"
        )

    def reasons(self) -> str:
        refused = sorted(self.found.refused.items())
        return listed((f"{path} ({reason})" for path, reason in refused), _NAMED, longest=None)

    def say(self) -> None:
        """Warn of what was passed over, and of what was read in a way that a user may not expect."""
        found = self.found
        if found.flat:
            use = "training" if "train" in found.files else "test"
            warn(f"{found.root} has no train: its folders are taken as the classes of {use} images")
        if found.litter or found.others:
            kind = "hidden or system file" + "s" * (found.litter > 1)
            litter = [f"{found.litter:,} {kind}"] if found.litter else []
            others = [f"{self.few(found.others)} beside the images"] if found.others else []
            warn(f"{found.root}: passed over {' and '.join(litter + others)}")
        ranked = sorted(self.notes.items(), key=lambda item: (-len(item[1]), item[0]))
        for note, paths in ranked[:3]:
            warn(f"{found.root}: {self.few(paths)}: {note}")
        if more := {path for _, paths in ranked[3:] for path in paths}:
            warn(f"{found.root}: Pillow warns of other things in {_count(more)}")

    def few(self, paths: Iterable[str]) -> str:
        names = sorted(_relative(self.found.root, paths))
        return f"{_count(names)} ({listed(names, 3)})"


def _count(files: Collection[str]) -> str:
    return f"{len(files):,} {'file' if len(files) == 1 else 'files'}"


def _relative(root: str, paths: Iterable[str]) -> tuple[str, ...]:
    """Paths below `root`, relative to it, as they may be shown."""
    return tuple(visible(os.path.relpath(path, root)) for path in paths)
