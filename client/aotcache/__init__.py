"""aotcache moves compiled torch.compile and vLLM trees between machines."""

__version__ = "0.1.0"
