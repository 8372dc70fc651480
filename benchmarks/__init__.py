"""Benchmarks of the library, which record median, quartiles, versions and device."""
