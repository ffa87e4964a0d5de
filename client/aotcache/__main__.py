"""`python -m aotcache`."""

from aotcache.cli import main

main()
