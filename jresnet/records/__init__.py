"""Records of runs: files, the run directory, logs, figures and tables."""
