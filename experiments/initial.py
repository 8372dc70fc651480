"""The initial model (report section 4): 64 channels, batch 64, learning rate 0.01, no augmentation.

The report's test accuracy after 100 epochs: 80.8 %. It does not say whether momentum and weight decay were there
already; `experiments.paper` says why they are here.

    python -m experiments.initial
"""

from experiments import report
from experiments.study import single

CONFIG = report.INITIAL

if __name__ == "__main__":
    raise SystemExit(single.main("initial", CONFIG))
