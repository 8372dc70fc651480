"""The page of a study, with its tables and figures."""
