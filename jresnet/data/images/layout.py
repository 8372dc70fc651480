"""Which files of a folder are its images: how people lay out splits and classes, and what lies beside them."""

import dataclasses
import os
import pathlib
import unicodedata
from collections.abc import Iterable

from jresnet.data.checks import unnamed
from jresnet.data.contents import SPLITS
from jresnet.data.files import check_readable
from jresnet.data.images import annotations, image_file
from jresnet.errors import InputError, listed

# What systems leave in folders, besides hidden files; in lower case.
_LITTER = {
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "@recycle", "#recycle", "#snapshot",
    "lost+found", "$recycle.bin", "system volume information",
}  # fmt: skip
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")
_WHERE = "images belong in train/<class>/, and in validation/<class>/ and test/<class>/ where there are such"


@dataclasses.dataclass
class Layout:
    """What is where in a folder of images.

    Attributes:
      root: absolute path of the folder.
      classes: names of the sub-folders of train, in Unicode's composed form (NFC), sorted; without train those given.
      directories: split -> its absolute path.
      files: split -> absolute paths of its images, class by class, each class sorted by path, and their labels.
      refused: absolute path of a file -> why it is no image of a class.
      lost: absolute path of a folder, or of a link where one may belong -> why it cannot be read.
      litter: how many hidden files and folders, and those that systems leave, were passed over.
      others: absolute paths of files and folders beside splits and classes, which are passed over too.
      flat: whether the classes lie in the folder itself: of training images, or if classes were given of test images.
      unlabelled: the folder of test images without classes, if there is one; it is no split.
    """

    root: str
    classes: tuple[str, ...] = ()
    directories: dict[str, str] = dataclasses.field(default_factory=dict)
    files: dict[str, tuple[list[str], list[int]]] = dataclasses.field(default_factory=dict)
    refused: dict[str, str] = dataclasses.field(default_factory=dict)
    lost: dict[str, str] = dataclasses.field(default_factory=dict)
    litter: int = 0
    others: list[str] = dataclasses.field(default_factory=list)
    flat: bool = False
    unlabelled: str | None = None

    @property
    def expected(self) -> str:
        """The classes that images may have, in words."""
        if "train" in self.directories:
            return f"train's classes ({listed(self.classes, 10)})"
        return f"the classes ({listed(self.classes, 10)}{'; --classes names them' if unnamed(self.classes) else ''})"


def find(root: str, flat: bool, classes: tuple[str, ...] | None = None) -> Layout:
    """Look where the images of a folder are, without reading them.

    Args:
      root: absolute path.
      flat: whether the classes of training images may lie in the folder itself, instead of in splits.
      classes: names of the classes, used if the folder has no training images.

    Raises:
      InputError: the folder or one in it cannot be read, splits and classes may be missing behind links that lead
        nowhere, or there is no layout of classes.
    """
    if not os.path.isdir(root):
        raise InputError(f"there is no directory {root}: give one where {_WHERE}")
    found = Layout(root)
    folders, files = _scan_level(found, os.path.join(root, ""))
    parts = _parts(root, folders, files)
    if "train" not in parts:
        _check_nested(root, folders, classes)
        if flat or classes is None:
            _flat(found, folders, files, parts, flat)
            return found
        found.classes = tuple(unicodedata.normalize("NFC", name) for name in classes)
        if not parts:
            found.flat = True
            _read_split(found, "test", root, folders, files)
            return found
    found.others += [os.path.join(root, name) for name in (*folders, *files) if name not in parts.values()]
    if "train" in parts:
        train = os.path.join(root, parts["train"])
        _read_train(found, train, *_scan_level(found, train))
    for split in ("validation", "test"):
        if split in parts:
            directory = os.path.join(root, parts[split])
            _read_split(found, split, directory, *_scan_level(found, directory))
    return found


def _parts(root: str, folders: list[str], files: list[str]) -> dict[str, str]:
    """Split -> its folder."""
    parts: dict[str, str] = {}
    for name in folders:
        split = SPLITS.get(name.casefold())
        if split in parts:
            raise InputError(f"{root} has both {parts[split]} and {name}, each the {split} images: keep one of them")
        if split:
            parts[split] = name
    if split_files := [name for name in files if name.casefold() in SPLITS]:
        raise InputError(f"{os.path.join(root, split_files[0])} is a file: make it a folder, or rename it")
    return parts


def _check_nested(root: str, folders: list[str], classes: tuple[str, ...] | None) -> None:
    """Refuse a folder around the one that is meant, as unpacking an archive makes."""
    wanted = ("train",) if classes is None else ("train", "test")
    if len(folders) == 1 and folders[0] not in (classes or ()):
        inner = os.path.join(root, folders[0])
        for name in _scan(Layout(root), inner)[0]:
            if SPLITS.get(name.casefold()) in wanted:
                raise InputError(f"{root} holds nothing but {folders[0]}, which has {name}: give folder:{inner}")


def _flat(found: Layout, folders: list[str], files: list[str], parts: dict[str, str], allowed: bool) -> None:
    """The layout of a folder without train/: its folders are the classes."""
    root = found.root
    if parts or not folders:
        only = f" beside {', '.join(parts.values())}" if parts else ""
        raise InputError(f"there is no directory {os.path.join(root, 'train')}{only}: {_WHERE}")
    if not allowed:
        raise InputError(
            f"{root} has no train, only the folders {listed(folders, 10)}: if these are the classes, add "
            f"--holdout-test N, how many of their images to test on; else {_WHERE}"
        )
    found.flat = True
    _read_train(found, root, folders, files)


def _read_train(found: Layout, directory: str, folders: list[str], files: list[str]) -> None:
    names = _composed(directory, folders)
    found.classes = tuple(sorted(names))
    _beside(found, directory, files)
    _read_classes(found, "train", directory, names)


def _read_split(found: Layout, split: str, directory: str, folders: list[str], files: list[str]) -> None:
    names = _composed(directory, folders)
    known = names.keys() & set(found.classes)
    if split == "validation" and annotations.NAME in files and not known:
        _read_annotated(found, directory, folders)
        return
    other_case = {name.casefold(): name for name in found.classes}
    if not any(name.casefold() in other_case for name in names) and (len(folders) == 1 or (files and not folders)):
        place = os.path.join(directory, *folders, "")
        if split == "test":
            found.unlabelled = place
            return
        raise InputError(
            f"the images in {place} are in no folders of {found.expected}: sort them into such, or remove them"
        )
    if unknown := sorted(names.keys() - known):
        same = other_case.get(unknown[0].casefold())
        if "train" in found.directories:
            what, remedy = "classes that train lacks", "add training images of them or remove them"
        else:
            what, remedy = f"folders that are none of {found.expected}", "rename or remove them"
        hint = f"rename {unknown[0]} to {same}" if same else remedy
        raise InputError(f"{directory} has {what}: {listed(unknown, 10)}: {hint}")
    _beside(found, directory, files)
    _read_classes(found, split, directory, names)


def _read_classes(found: Layout, split: str, directory: str, folders: dict[str, str]) -> None:
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(found.classes):
        if name in folders:
            of_class = walk(found, os.path.join(directory, folders[name]))
            paths += of_class
            labels += [label] * len(of_class)
    _check_lost(found)
    found.directories[split], found.files[split] = directory, (paths, labels)


def _read_annotated(found: Layout, directory: str, folders: list[str]) -> None:
    """Tiny ImageNet's validation images: val/images/*, with a class for each in val_annotations.txt."""
    path = os.path.join(directory, annotations.NAME)
    classes = annotations.read(path, {name: label for label, name in enumerate(found.classes)})
    pairs: list[tuple[int, str]] = []
    for folder in folders:
        for image in walk(found, os.path.join(directory, folder)):
            label = classes.pop(os.path.basename(image), None)
            if label is None:
                found.refused[image] = f"it is not in {annotations.NAME}"
            else:
                pairs.append((label, image))
    _check_lost(found)
    found.refused |= {
        os.path.join(directory, name): f"{annotations.NAME} names it, but it is not there" for name in classes
    }
    pairs.sort()
    found.directories["validation"] = directory
    found.files["validation"] = [image for _, image in pairs], [label for label, _ in pairs]


def walk(found: Layout, directory: str) -> list[str]:
    """Files below a class's folder, sorted by path; links are followed, to each folder once and to none around it."""
    paths, folders = [], [directory]
    seen = {_identity(str(parent)) for parent in pathlib.Path(os.path.realpath(directory)).parents}
    boxes = f"{os.path.basename(directory)}_boxes.txt"  # Tiny ImageNet's, beside its images
    while folders:
        folder = folders.pop()
        try:
            identity = _identity(folder)
            if identity in seen:
                where = found.lost if folder == directory else found.refused
                where[folder] = "a link to a folder that is read already, or to one around it"
                continue
            seen.add(identity)
            inner, files, links = _scan(found, folder)
        except OSError as error:
            found.lost[folder] = str(error.strerror)
            continue
        found.refused |= dict.fromkeys(links, "a link to nothing")
        folders += [os.path.join(folder, name) for name in inner]
        if folder == directory and boxes in files:
            files.remove(boxes)
            found.others.append(os.path.join(folder, boxes))
        paths += [os.path.join(folder, name) for name in files]
    return sorted(paths)


def _identity(directory: str) -> tuple[int, int]:
    status = os.stat(directory)
    return status.st_dev, status.st_ino


def _scan_level(found: Layout, directory: str) -> tuple[list[str], list[str]]:
    """Folders and files as `_scan`; InputError for links to nothing, where each may stand for a split or a class."""
    check_readable(directory, os.scandir)
    folders, files, links = _scan(found, directory)
    found.lost |= dict.fromkeys(links, "a link to nothing")
    _check_lost(found)
    return folders, files


def _check_lost(found: Layout) -> None:
    """Refuse data of which folders cannot be read, as splits and classes would be missing without a trace."""
    if len(found.lost) == 1:
        ((path, reason),) = found.lost.items()
        raise InputError(f"{path} cannot be read ({reason}): restore or remove it, as no split or class is left out")
    if found.lost:
        names = [f"{path} ({reason})" for path, reason in sorted(found.lost.items())]
        raise InputError(
            f"{len(names):,} folders or links to folders cannot be read: {listed(names, 10, longest=None)}: restore or "
            "remove them, as no split or class is left out"
        )


def _scan(found: Layout, directory: str) -> tuple[list[str], list[str], list[str]]:
    """Sorted names of the folders and of the files in a folder, links followed, and the paths of links to nothing."""
    folders: list[str] = []
    files: list[str] = []
    links: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if _is_litter(entry.name):
                found.litter += 1
            elif entry.is_symlink() and not os.path.exists(entry.path):
                links.append(entry.path)
            else:
                (folders if entry.is_dir() else files).append(entry.name)
    return sorted(folders), sorted(files), links


def _is_litter(name: str) -> bool:
    """Whether a name is hidden, or one that systems leave; Windows marks downloads with NAME:Zone.Identifier."""
    folded = name.casefold()
    return name.startswith(".") or folded in _LITTER or folded.endswith((":zone.identifier", "thumbs.db:encryptable"))


def _beside(found: Layout, directory: str, files: Iterable[str]) -> None:
    """Refuse images beside the folders of classes, as they have no class; lists and notes belong there."""
    for name in files:
        path = os.path.join(directory, name)
        if _is_image(path):
            found.refused[path] = "it lies beside the folders of the classes, in none of them"
        else:
            found.others.append(path)


def _is_image(path: str) -> bool:
    if path.lower().endswith(_IMAGE_SUFFIXES):
        return True
    try:
        image_file.image_size(path)
    except InputError:
        return False
    return True


def _composed(directory: str, folders: list[str]) -> dict[str, str]:
    """Class -> its folder: names that look the same are the same, however their accents are stored."""
    names: dict[str, str] = {}
    stripped: set[str] = set()
    for folder in folders:
        name = unicodedata.normalize("NFC", folder)
        bare = " ".join(name.split())
        if not bare:
            raise InputError(f"{directory} has a folder {folder!r}, which names no class: rename it")
        if bare in stripped:
            raise InputError(f"{directory} has two folders whose names look the same, {bare}: join or rename them")
        stripped.add(bare)
        names[name] = folder
    return names
