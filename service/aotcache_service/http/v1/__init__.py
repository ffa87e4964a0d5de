"""Version 1 of the API: a router per kind of call; the bodies are those of aotcache.protocol.v1."""
