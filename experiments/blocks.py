"""One, two and three blocks per stage around the final model (announced in report section 4, without a table).

Three blocks per stage have 7,517,380 parameters, more than the budget of 5 million that the final model keeps to.

python -m experiments.blocks
"""

from experiments.study import sweep

if __name__ == "__main__":
    raise SystemExit(sweep.main("blocks"))
