#!/bin/sh
# Slurm's Prolog, as root before a job: a directory for the caches of the job's user.
# Whatever happens it ends well: Slurm drains a node whose Prolog fails.
test -r /etc/aotcache/slurm.env || exit 0
(
    set -eu
    # shellcheck source=deploy/slurm/slurm.env
    . /etc/aotcache/slurm.env

    user=${SLURM_JOB_UID:?} # set by Slurm
    root=$AOTCACHE_ROOTS/aotcache-$user
    test -d "$AOTCACHE_ROOTS" || install -d -m 0755 "$AOTCACHE_ROOTS"
    # Where others write as well, one of them may have put a link in the place of a user's directory.
    if test -n "$(find "$AOTCACHE_ROOTS" -maxdepth 0 '(' ! -user root -o -perm /022 ')')"; then
        echo "$AOTCACHE_ROOTS is not used: others than root write in it"
        exit 0
    fi
    install -d -m 0700 -o "$user" -g "$(id -g "$user")" "$root"
    touch "$root" # its last job
) 2>&1 | { logger -t aotcache || cat > /dev/null; }
exit 0
