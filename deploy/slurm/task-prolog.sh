#!/bin/sh
# Slurm's TaskProlog, as the job's user before each task: what it prints as `export NAME=VALUE` is the task's environment.
# A job whose environment has AOTCACHE_COMMAND='vllm serve MODEL …' finds the trees of that command on the node's disk.
# A miss, or an error, is a line in the job's output, and the task compiles.
test -r /etc/aotcache/slurm.env || exit 0
(
    set -u
    # shellcheck source=deploy/slurm/slurm.env
    . /etc/aotcache/slurm.env

    root=$AOTCACHE_ROOTS/aotcache-$(id -u)
    test -d "$root" || exit 0
    VLLM_CACHE_ROOT=$root
    export VLLM_CACHE_ROOT AOTCACHE_URL AOTCACHE_TOKEN_FILE AOTCACHE_TRUSTED_KEYS
    for name in VLLM_CACHE_ROOT AOTCACHE_URL AOTCACHE_TOKEN_FILE AOTCACHE_TRUSTED_KEYS; do
        eval "echo \"export $name=\$$name\""
    done
    test -n "${AOTCACHE_COMMAND:-}" || exit 0
    # The engine's own Python: a tree is for one torch. Tasks of a node wait for each other, and find it there.
    seconds=${AOTCACHE_SECONDS:-120}
    {
        timeout "$seconds" "${AOTCACHE_PYTHON:-python3}" -m aotcache pull --recipe-of "$AOTCACHE_COMMAND"
        test $? -ne 124 || echo "not pulled within $seconds s (AOTCACHE_SECONDS): compiling"
    } 2>&1 | sed 's/^/print aotcache: /'
) || echo "print aotcache: not used: /etc/aotcache/slurm.env is not as it should be"
exit 0
