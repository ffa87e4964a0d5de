"""A fleet on one machine: real replicas, PostgreSQL, S3 and client code; a compile is a wait.

python -m fleet.fleet        (with `tests` on PYTHONPATH; `make fleet`)
"""
