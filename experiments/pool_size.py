"""Average pooling over 1 x 1, 2 x 2 and 4 x 4 cells around the final model (announced in report section 4).

    python -m experiments.pool_size

The report gives no table.
Not yet run here at full scale; docs/results.md has it at an eighth of the width.
"""

from experiments import report
from experiments.study import sweep
from experiments.study.experiment import vary

EXPERIMENT = vary(
    "pool_size", "4.2", "Pooling size", report.FINAL, {1: None, 2: None, 4: None}, chosen=4, builds_on=report.DECISIONS
)

if __name__ == "__main__":
    raise SystemExit(sweep.main(EXPERIMENT))
