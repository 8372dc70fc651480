"""Speed, measured: the library against PyTorch, alternated in one run, with spread, versions and device."""
