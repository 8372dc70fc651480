"""Data sets in files of arrays: .npz and .npy files, and CIFAR's own archives."""
