"""The aotcache service: the index of what object storage holds, over HTTP."""
