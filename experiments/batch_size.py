"""Batch sizes 32, 64 and 128 (report section 4.2.2).

    python -m experiments.batch_size

The report's test accuracies after 100 epochs: 0.8965, 0.8909, 0.8766; it continues with 32.
Not yet run here at full scale; docs/results.md has it at an eighth of the width.
"""

from dataclasses import replace

from experiments import report
from experiments.study import sweep
from experiments.study.experiment import vary

EXPERIMENT = vary(
    "batch_size", "4.2.2", "Batch size", replace(report.AUGMENTED, learning_rate=0.001),
    {32: 0.8965, 64: 0.8909, 128: 0.8766}, chosen=32, builds_on=report.DECISIONS[:1],
)  # fmt: skip

if __name__ == "__main__":
    raise SystemExit(sweep.main(EXPERIMENT))
