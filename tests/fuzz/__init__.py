"""Fuzzing: bytes of any kind are read, and nothing happens but an error of ours.

python -m fuzz.run TARGET --count N     (with tests on PYTHONPATH)
"""
