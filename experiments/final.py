"""The final model (report section 4.3): 42 channels, batch 32, learning rate 0.001, augmentation; 4,815,940 parameters.

    python -m experiments.final            # CIFAR-10
    python -m experiments.final --quick    # a small network on synthetic images

The report, after 100 epochs: train loss 0.050407, train accuracy 0.982726, test loss 0.358776, test accuracy 0.909545.
That is 9110 / (313 x 32), a mean over 313 batches: the batch size, which the report does not state, is 32.
Not yet run here at full scale; docs/results.md has it at an eighth of the width.
"""

from experiments import report
from experiments.study import single
from experiments.study.experiment import Experiment, Setting

CONFIG = report.FINAL
EXPERIMENT = Experiment(
    name="final",
    section="4.3",
    title="Final model",
    settings=(Setting("final", CONFIG),),
    reported={
        "final": {
            "train_loss": 0.050407, "test_loss": 0.358776, "train_accuracy": 0.982726, report.COMPARED: 0.909545,
            "parameters": 4_815_940,
        }
    },
    builds_on=report.DECISIONS,
)  # fmt: skip

if __name__ == "__main__":
    raise SystemExit(single.main(EXPERIMENT.name, CONFIG))
