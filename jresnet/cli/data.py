"""The options that say which data a trained network is given."""

import dataclasses
from typing import ClassVar, Literal

from jresnet.config import Resize, Source
from jresnet.errors import InputError
from jresnet.records.run import Run
from jresnet.rules import flag
from jresnet.use.classifier import CONVERTED


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Options of data; those that are not given are as a run recorded them."""

    GROUP: ClassVar = Source.GROUP

    dataset: str | None = None
    """cifar10, cifar100 or any other TFDS name, npz:FILE, folder:DIR, or synthetic (default: the run's own data)."""
    data_dir: str | None = None
    """Directory of prepared TFDS sets or of CIFAR's archives (default: $TFDS_DATA_DIR, or ~/tensorflow_datasets)."""
    image_size: tuple[int, int] | None = None
    """Height and width in pixels to which images are resized (default: as the run's own were)."""
    resize: Resize | None = None
    """How images of another shape fit that size: cut to it, padded, or stretched (default: as the run's own; crop)."""
    background: tuple[int, int, int] | None = None
    """Red, green and blue, 0 to 255, behind transparent and around padded images (default: the run's own; white)."""
    skip_unreadable: bool = False
    """Go on without the files of folder:DIR that are not readable images, as with the data of a run that did."""
    test_from: Literal["validation"] | None = None
    """Take the validation images as test images, for data that have none."""
    holdout_test: int | None = None
    """Take this many training images as test images, for data that have none."""

    def require_dataset(self) -> None:
        """Raise InputError unless a data set is given, for weights that no run has trained."""
        if self.dataset is None:
            raise InputError(f"{flag('dataset')}: must be given, as weights from elsewhere have no data of their own")

    def source(self, run: Run) -> Source:
        """Where the data come from: the run's own, or the data set given, in which images are resized as in the run.

        Raises:
          InputError: no data set is given, and the run has none; or a value breaks its rule.
        """
        if run.experiment == CONVERTED:
            self.require_dataset()
        own = run.config.source
        if self.dataset is not None:
            own = Source(image_size=own.image_size, resize=own.resize, background=own.background)
        names = (field.name for field in dataclasses.fields(Source))
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        given["skip_unreadable"] = self.skip_unreadable or own.skip_unreadable  # a flag: False is "not given"
        # Of the two options for test images, one that is given takes the place of the run's own.
        own = dataclasses.replace(
            own,
            test_from=None if self.holdout_test else own.test_from,
            holdout_test=0 if self.test_from else own.holdout_test,
        )
        return dataclasses.replace(own, **given)
