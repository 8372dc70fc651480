"""The report's final model (section 4.3): 42 channels, batch 32, learning rate 0.001, 100 epochs, augmented.

The batch size follows from the final accuracy, 0.909545 = 9110 / (313 x 32), a mean over 313 batches of
32. The report's figures: train loss 0.050407 and accuracy 0.982726, test loss 0.358776 and accuracy
0.909545, 4,815,940 parameters.

    python -m experiments.final            # CIFAR-10
    python -m experiments.final --quick    # a small network on synthetic images
"""

from experiments import report
from experiments.study import single

CONFIG = report.final()

if __name__ == "__main__":
    raise SystemExit(single.main("final", CONFIG))
