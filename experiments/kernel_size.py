"""Kernels of 1 x 1, 3 x 3 and 5 x 5 around the final model (announced in report section 4, without a table).

Kernels of 5 x 5 make 13,228,708 parameters, more than the budget of 5 million that the final model keeps to.

python -m experiments.kernel_size
"""

from experiments.study import sweep

if __name__ == "__main__":
    raise SystemExit(sweep.main("kernel_size"))
