"""Published results on CIFAR-10 to compare with: accuracy, protocol, parameters, arithmetic, time, and sources.

Each figure was read in its source, named there. What a source does not say is None, except for parameters, which are
counted from its layers, and for arithmetic, where `arithmetic` says how it is computed: at 2 operations per
multiply-add, and 3 times the forward pass for training.
"""

import dataclasses

_IMAGES = 50_000


def petaflop(macs: float, epochs: int, passes: int = 3) -> float:
    """PFLOP of training on CIFAR-10, of forward passes with so many multiply-adds; a backward pass counts as two.

    >>> petaflop(1e9, 10)
    3.0
    """
    return passes * 2 * macs * _IMAGES * epochs / 1e15


@dataclasses.dataclass(frozen=True, kw_only=True)
class Anchor:
    """A published result.

    Attributes:
      name: of the network or program.
      accuracy: on the test images.
      protocol: how it was measured.
      plain: whether that is the last epoch's accuracy, from each image once: nothing chosen, nothing averaged.
      runs: number of runs that the accuracy is the mean of.
      parameters: trainable parameters.
      epochs: of training.
      petaflop: of training.
      arithmetic: how `petaflop` was computed; empty if the source gives it.
      seconds: of training.
      hardware: that they were measured on.
      source: where the figures were read.
    """

    name: str
    accuracy: float
    protocol: str
    plain: bool = False
    runs: int | None = None
    parameters: int | None = None
    epochs: int | None = None
    petaflop: float | None = None
    arithmetic: str = ""
    seconds: float | None = None
    hardware: str | None = None
    source: str


_AIRBENCH = "KellerJordan/cifar10-airbench, "
_VIEWS = "last epoch, 6 views of each test image"
ANCHORS = (
    Anchor(
        name="the report's ResNet-18 of 42 channels", accuracy=0.909545,
        protocol="last epoch, mean over test batches, settings chosen on the test images", runs=1,
        parameters=4_815_940, epochs=100, petaflop=petaflop(239_600_928, 100), arithmetic="layers x epochs",
        source="the report, section 4.3",
    ),
    Anchor(
        name="ResNet-18, kuangliu", accuracy=0.9302, protocol="best test epoch", parameters=11_173_962,
        epochs=350, petaflop=petaflop(555_422_720, 350), arithmetic="layers x epochs of the README's first schedule",
        source="kuangliu/pytorch-cifar, README and main.py",
    ),
    Anchor(
        name="ResNet-18, standard training", accuracy=0.96, protocol="not stated", parameters=11_173_962,
        petaflop=32.3, seconds=420, hardware="A100", source=_AIRBENCH + "README",
    ),
    Anchor(
        name="airbench94, Muon", accuracy=0.9401, protocol=_VIEWS, runs=200, parameters=1_971_352, epochs=8,
        petaflop=0.29, seconds=2.59, hardware="A100", source=_AIRBENCH + "airbench94_muon.py and README",
    ),
    Anchor(
        name="airbench95", accuracy=0.9501, protocol=_VIEWS, runs=200, parameters=4_604_440, epochs=15,
        petaflop=1.39, seconds=10.4, hardware="A100", source=_AIRBENCH + "legacy/airbench95.py",
    ),
    Anchor(
        name="airbench96, data filtered", accuracy=0.96, protocol=_VIEWS, runs=200, parameters=9_915_416, epochs=45,
        petaflop=3.1, seconds=27.3, hardware="A100", source=_AIRBENCH + "airbench96_faster.py and README",
    ),
    Anchor(
        name="ResNet-SE 4-4-3, Thakur et al. 2023", accuracy=0.9604, protocol="best test epoch", runs=1,
        parameters=4_697_742, epochs=200, petaflop=petaflop(798_690_304, 200), arithmetic="layers x epochs",
        source="Nikunj-Gupta/Efficient_ResNets, README, main.py and config.yaml",
    ),
    Anchor(
        name="WRN-40-2, LatentAugment", accuracy=0.9727, protocol="best test epoch", parameters=2_243_546, epochs=200,
        petaflop=petaflop(327_599_360, 200, passes=25),
        arithmetic="layers x epochs x 25: 7 forward passes, and training on 6 copies of each image",
        source="KoichiKuriyama/LatentAugment, README and train.py",
    ),
    Anchor(
        name="Shake-Shake 26 2x32d, AutoAugment", accuracy=0.9753, protocol="not stated", parameters=2_923_162,
        epochs=1800, petaflop=petaflop(428.89e6, 1800), arithmetic="multiply-adds of osmr/imgclsmob x epochs",
        source="as cited by KoichiKuriyama/LatentAugment; epochs of xgastaldi/shake-shake",
    ),
)  # fmt: skip
