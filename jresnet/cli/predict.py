"""`jresnet predict`: the classes of images in files, as a table, JSON or CSV."""

import dataclasses
import glob
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import tyro.conf

from jresnet.cli.network import WeightsOptions
from jresnet.cli.program import STDOUT, make_console, output_files
from jresnet.config import Resize
from jresnet.data.images import layout
from jresnet.data.progress import tracked, warn
from jresnet.errors import Incomplete, InputError, listed, visible
from jresnet.parallel.compiler import enable_compile_cache
from jresnet.records.files import Record, json_bytes, local_path, write_bytes
from jresnet.records.tables import Table, number, text
from jresnet.rules import require
from jresnet.use.classifier import MAX_BATCH_SIZE, Classifier

_NAMED = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(WeightsOptions):
    """Classify images: one line of the table for each, with its most probable class.

    Files that cannot be read are named on standard error, the others are done, and the exit status is 5. Options of the
    network, the normalisation and the classes are for files of weights, as a run has recorded its own.
    """

    GROUP: ClassVar = "prediction"

    run: tyro.conf.Positional[str]
    """A run's directory, or a file of weights, which needs --mean and --std."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """Files, patterns such as 'photos/*.jpg', folders with all below them, or - for paths on the standard input."""
    top: int = 1
    """How many classes to give of each image, the most probable first."""
    resize: Resize | None = None
    """How images of another size are fitted (default: as in training; without --image-size there, they are refused)."""
    json: str | None = None
    """File for an array of objects with file, class, probability and top; - for the standard output, in the place of
    the table."""
    csv: str | None = None
    """File for lines of file, class and probability, one for each of the --top classes; - as of --json."""

    def __post_init__(self) -> None:
        """Check what can be checked without the network."""
        super().__post_init__()
        require(self, "top", self.top >= 1, "must be at least 1")
        rule = "has --json already: give a file"
        require(self, "csv", not self.json == self.csv == STDOUT, rule)
        if not self.images:
            raise InputError("IMAGES: must be given: files, folders, patterns, or - for paths on standard input")
        if "" in self.images:  # a variable of a shell that is not set, not the working directory
            raise InputError("IMAGES '': names nothing: give files, folders, patterns, or - for standard input")


def run(options: Options) -> None:
    """Classify the images, write the files and print the table.

    Raises:
      InputError: no image could be read, or the network could not.
      Incomplete: only some could be read.
    """
    outputs = output_files(options, ("json", "csv"))
    files, refused = find(options.images)
    if not files:
        raise _none(refused)
    enable_compile_cache()
    classifier = options.load(options.run)
    count = len(classifier.classes)
    require(options, "top", options.top <= count, f"the network has {count} classes: choose at most {count}")
    records = classify(classifier, files, options, refused)
    if not records:
        raise _none(refused)
    show(records, options, outputs)
    for message in refused.values():
        warn(message)
    if refused:
        share = f"{len(refused):,} of {len(records) + len(refused):,} images"
        raise Incomplete(f"{share} could not be read (named above): repair them or leave them out")


def find(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The files that words of the command line name, each once, and path -> message for those that cannot be read."""
    files: list[str] = []
    refused: dict[str, str] = {}
    for word in words:
        for path in _from_stdin(refused) if word == "-" else [word]:
            try:
                files += _below(os.fspath(local_path(path)), refused)
            except InputError as error:
                refused[path] = str(error)
    return [file for file in dict.fromkeys(files) if file not in refused], refused


def _from_stdin(refused: dict[str, str]) -> list[str]:
    data = sys.stdin.buffer.read()
    if b"\0" in data:
        refused["-"] = "-: standard input must be paths, one a line: to classify one image, give its path"
        return []
    return [os.fsdecode(line) for line in data.splitlines() if line]


def _below(path: str, refused: dict[str, str]) -> list[str]:
    """The files at a path or, sorted, below it, or at those that match it as a pattern; else the path itself."""
    if os.path.isdir(path):
        found = layout.Layout(path)
        files = layout.walk(found, path)
        for place, reason in (found.lost | found.refused).items():
            refused[place] = f"{place} cannot be read ({reason}): repair it, or leave it out"
        if not files:
            refused[path] = f"{path}: there are no files in this folder: give one with images, or leave it out"
        return files
    if not os.path.lexists(path) and glob.has_magic(path):
        matches = sorted(glob.glob(path, recursive=True))
        return [file for match in matches for file in _below(match, refused)] or [path]
    return [path]


def classify(classifier: Classifier, files: Sequence[str], options: Options, refused: dict[str, str]) -> list[Record]:
    """A record of each file that can be read; the messages of the others go into `refused`."""
    form, records = classifier.form(options.resize), []
    starts = range(0, len(files), MAX_BATCH_SIZE)
    for start in tracked(starts, len(starts), f"batches of {MAX_BATCH_SIZE} images", make_console()):
        piece = files[start : start + MAX_BATCH_SIZE]
        fitted = dict(zip(piece, form.fit_all(piece), strict=True))
        refused |= {file: str(result) for file, result in fitted.items() if isinstance(result, InputError)}
        images = {file: result for file, result in fitted.items() if not isinstance(result, InputError)}
        probabilities = classifier.predict(np.stack([*images.values()])) if images else ()
        for file, row in zip(images, probabilities, strict=True):
            best = np.argsort(-row, kind="stable")[: options.top]
            top = [{"class": classifier.classes[label], "probability": float(row[label])} for label in best]
            records.append({"file": file, **top[0], "top": top})
    return records


def show(records: Sequence[Record], options: Options, outputs: Mapping[str, pathlib.Path]) -> None:
    """Write the files, then print the table, or what is asked for in its place: a reader may leave at any line."""
    rows = [{"file": visible(record["file"]), **best} for record in records for best in record["top"]]
    columns = [text("file", "file"), text("class", "class"), number("probability", "probability", ".4f")]
    table = Table(columns, rows, group="file" if options.top > 1 else "")
    contents = {"json": json_bytes(records), "csv": table.csv().encode()}
    for name, path in outputs.items():
        write_bytes(path, contents[name])
    printed = [contents[name] for name in contents if getattr(options, name) == STDOUT]
    if printed:
        print(printed[0].decode(), end="")
    else:
        make_console().print(table)


def _none(refused: Mapping[str, str]) -> InputError:
    return InputError(f"no image could be read: {listed(refused.values(), _NAMED, longest=None)}")
