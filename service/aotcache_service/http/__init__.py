"""HTTP: the app factory, version 1 of the API, health, and one table of errors."""
