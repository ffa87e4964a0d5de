"""This machine: its toolchain and GPU, and the trees on its disk. Imports torch only where a process has it."""
