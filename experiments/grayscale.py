"""Which augmentations help (report section 4.1): none, grayscale, crop + flip, or all three.

    python -m experiments.grayscale

The report gives test accuracies for none (0.808) and for all three (0.8756), but none for grayscale alone.
Not yet run here at full scale; docs/results.md has it at an eighth of the width.
"""

from dataclasses import replace

from experiments import report
from experiments.study import sweep
from experiments.study.experiment import Experiment, Setting

EXPERIMENT = Experiment(
    name="grayscale",
    section="4.1",
    title="Grayscale alone",
    settings=(
        Setting("none", report.INITIAL),
        Setting("grayscale", replace(report.INITIAL, grayscale=0.5)),
        Setting("crop + flip", replace(report.INITIAL, crop_padding=4, flip=0.5)),
        Setting("crop + flip + grayscale", report.AUGMENTED),
    ),
    claim=("grayscale", "none"),
    chosen="crop + flip + grayscale",
)

if __name__ == "__main__":
    raise SystemExit(sweep.main(EXPERIMENT))
