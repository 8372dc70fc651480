"""The initial model (report section 4): 64 channels, batch 64, learning rate 0.01, no augmentation.

    python -m experiments.initial

The report, after 100 epochs: test accuracy 0.808. It does not say whether momentum and weight decay were used from the
start; `experiments.report` says why they are here.
Not yet run here at full scale; docs/results.md has it at an eighth of the width.
"""

from experiments import report
from experiments.study import single
from experiments.study.experiment import Experiment, Setting

CONFIG = report.INITIAL
EXPERIMENT = Experiment(
    name="initial",
    section="4",
    title="Initial model",
    settings=(Setting("initial", CONFIG),),
    reported={"initial": {report.COMPARED: 0.808}},
)

if __name__ == "__main__":
    raise SystemExit(single.main(EXPERIMENT.name, CONFIG))
