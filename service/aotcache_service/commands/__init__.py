"""The service's commands; the aotcache CLI finds them by their entry points."""
