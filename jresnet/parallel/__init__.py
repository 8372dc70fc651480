"""Devices and processes: jit or pmap, multi-process runs, compiler options."""
