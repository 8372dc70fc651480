"""42, 64 and 80 channels (report section 4.2.3) at learning rate 0.001 and batch 32, augmented.

The report's test accuracies after 100 epochs: 0.9057, 0.8947, 0.9016. On CIFAR-10 the networks have 4,815,940,
11,173,962 and 17,454,170 parameters: only the first stays below the report's 5 million.

    python -m experiments.width
"""

from experiments.study import sweep

if __name__ == "__main__":
    raise SystemExit(sweep.main("width"))
