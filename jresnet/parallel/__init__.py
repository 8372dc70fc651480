"""Devices and processes: jit or pmap, distributed start-up, compiler options."""
