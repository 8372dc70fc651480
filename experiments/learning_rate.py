"""Learning rates 0.01, 0.005 and 0.001 (report section 4.2.1).

    python -m experiments.learning_rate

The report's test accuracies after 100 epochs: 0.8755, 0.8836, 0.8865; it continues with 0.001.
Not yet run here at full scale; docs/results.md has it at an eighth of the width.
"""

from experiments import report
from experiments.study import sweep
from experiments.study.experiment import vary

EXPERIMENT = vary(
    "learning_rate", "4.2.1", "Learning rate", report.AUGMENTED,
    {0.01: 0.8755, 0.005: 0.8836, 0.001: 0.8865}, chosen=0.001,
)  # fmt: skip

if __name__ == "__main__":
    raise SystemExit(sweep.main(EXPERIMENT))
