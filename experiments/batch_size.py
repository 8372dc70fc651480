"""Batch sizes 32, 64 and 128 (report section 4.2.2) at learning rate 0.001 and 64 channels, augmented.

The report's test accuracies after 100 epochs: 0.8965, 0.8909, 0.8766.

    python -m experiments.batch_size
"""

from experiments.study import sweep

if __name__ == "__main__":
    raise SystemExit(sweep.main("batch_size"))
