"""Kernels of 1 x 1, 3 x 3 and 5 x 5 around the final model (announced in report section 4, without a table).

    python -m experiments.kernel_size

5 x 5 kernels have 13,228,708 parameters, more than the final model's budget of 5 million.
Not yet run here at full scale; docs/results.md has it at an eighth of the width.
"""

from experiments import report
from experiments.study import sweep
from experiments.study.experiment import vary

EXPERIMENT = vary(
    "kernel_size", "4.2", "Kernel size", report.FINAL, {1: None, 3: None, 5: None}, chosen=3, builds_on=report.DECISIONS
)

if __name__ == "__main__":
    raise SystemExit(sweep.main(EXPERIMENT))
