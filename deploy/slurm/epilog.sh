#!/bin/sh
# Slurm's Epilog, as root after a job: publishes what the job completed and nobody published, as the job's user and signed
# with that user's own key, so that it says nothing that the user could not; then deletes what is old.
# Whatever happens it ends well: Slurm drains a node whose Epilog fails.
test -r /etc/aotcache/slurm.env || exit 0
(
    set -u
    # shellcheck source=deploy/slurm/slurm.env
    . /etc/aotcache/slurm.env

    user=${SLURM_JOB_USER:?} # set by Slurm
    root=$AOTCACHE_ROOTS/aotcache-${SLURM_JOB_UID:?}
    home=$(getent passwd "$user" | cut -d: -f6)
    key=$home/.config/aotcache/signing.pem
    if test -d "$root" && runuser -u "$user" -- test -r "$key"; then
        # Nothing of the job's environment, which is the user's, reaches root's shell.
        runuser -u "$user" -- env -i PATH="$PATH" HOME="$home" VLLM_CACHE_ROOT="$root" AOTCACHE_URL="$AOTCACHE_URL" \
            AOTCACHE_TOKEN_FILE="$AOTCACHE_TOKEN_FILE" AOTCACHE_TRUSTED_KEYS="$AOTCACHE_TRUSTED_KEYS" \
            timeout "${AOTCACHE_SECONDS:-120}" "$AOTCACHE" watch --once
        test $? -ne 124 || echo "job ${SLURM_JOB_ID:-}: $root not published within AOTCACHE_SECONDS: its next job goes on"
    fi
    # Those alone that the prolog makes, where nobody but root can have put anything in their place.
    if test -n "$(find "$AOTCACHE_ROOTS" -maxdepth 0 -user root ! -perm /022)"; then
        find "$AOTCACHE_ROOTS" -mindepth 1 -maxdepth 1 -type d -name 'aotcache-[0-9]*' \
            -mtime "+${AOTCACHE_KEEP_DAYS:-30}" -exec rm -rf {} +
    fi
) 2>&1 | { logger -t aotcache || cat > /dev/null; } # a reader must be there to the end
exit 0
