"""Learning rates 0.01, 0.005 and 0.001 (report section 4.2.1) at batch 64 and 64 channels, augmented.

The report's test accuracies after 100 epochs: 0.8755, 0.8836, 0.8865.

    python -m experiments.learning_rate
"""

from experiments.study import sweep

if __name__ == "__main__":
    raise SystemExit(sweep.main("learning_rate"))
