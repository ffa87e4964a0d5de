"""`make bench`: what aotcache takes, beside what a user would do instead, in one run."""
