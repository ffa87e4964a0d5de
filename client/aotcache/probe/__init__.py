"""This machine: its toolchain and GPU, and the trees on its disk. torch_probe imports torch."""
