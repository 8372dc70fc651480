"""Which augmentations help (report section 4.1), grayscale alone above all: none, grayscale, crop + flip, all three.

The report gives accuracies for none (0.808) and for all three (0.8756), none for grayscale alone.

    python -m experiments.grayscale
"""

from experiments.study import sweep

if __name__ == "__main__":
    raise SystemExit(sweep.main("grayscale"))
