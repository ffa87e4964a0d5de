"""Bodies of the HTTP API, version 1: one small file per call, shared by client and service."""
