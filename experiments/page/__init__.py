"""The page of a study, and the tables and figures on it."""
