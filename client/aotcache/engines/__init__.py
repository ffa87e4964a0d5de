"""Engines: what is particular to one program that compiles. Never raise into the engine."""
