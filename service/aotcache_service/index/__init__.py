"""The index: which trees are stored, in a database that `aotcache reindex` can rebuild any time."""
