"""The report's experiments, and those beyond it: each module is a configuration and a main."""
