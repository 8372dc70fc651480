"""The machinery of a study: settings x seeds -> runs -> statistics."""
