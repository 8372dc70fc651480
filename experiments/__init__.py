"""The report's experiments, one module each: a configuration, the report's values, and a main."""
