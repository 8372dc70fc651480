"""42, 64 and 80 channels (report section 4.2.3): 4,815,940, 11,173,962 and 17,454,170 parameters on CIFAR-10.

    python -m experiments.width

The report's test accuracies after 100 epochs: 0.9057, 0.8947, 0.9016; it continues with 42, the only one below its
budget of 5 million parameters.
Not yet run here at full scale; docs/results.md has it at an eighth of the width.
"""

from dataclasses import replace

from experiments import report
from experiments.study import sweep
from experiments.study.experiment import vary

EXPERIMENT = vary(
    "width", "4.2.3", "Channels", replace(report.AUGMENTED, learning_rate=0.001, batch_size=32),
    {42: 0.9057, 64: 0.8947, 80: 0.9016}, chosen=42, builds_on=report.DECISIONS[:2],
)  # fmt: skip

if __name__ == "__main__":
    raise SystemExit(sweep.main(EXPERIMENT))
