"""Files of PyTorch weights: read without running anything, checked, and matched with the network that they fit."""
