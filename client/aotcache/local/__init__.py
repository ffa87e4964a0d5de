"""This machine's disk: state beside the trees, staging, install, records, journal."""
