"""Average pooling over 1 x 1, 2 x 2 and 4 x 4 cells around the final model (announced in report section 4).

python -m experiments.pool_size
"""

from experiments.study import sweep

if __name__ == "__main__":
    raise SystemExit(sweep.main("pool_size"))
