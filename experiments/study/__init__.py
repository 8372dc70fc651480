"""The study: settings x seeds -> runs -> statistics."""
