#!/bin/sh
# Slurm's Epilog, as root after a job: publishes what the job completed and nobody published, as the job's user and signed
# with that user's own key, so that it says nothing that the user could not; then deletes what is old.
# Whatever happens it ends well: Slurm drains a node whose Epilog fails.
set -u
test -r /etc/aotcache/slurm.env || exit 0
# shellcheck source=deploy/slurm/slurm.env
. /etc/aotcache/slurm.env

user=${SLURM_JOB_USER:?} # set by Slurm
root=$AOTCACHE_ROOTS/${SLURM_JOB_UID:?}
home=$(getent passwd "$user" | cut -d: -f6)
key=$home/.config/aotcache/signing.pem
if test -d "$root" && runuser -u "$user" -- test -r "$key"; then
    # Nothing of the job's environment, which is the user's, reaches root's shell.
    runuser -u "$user" -- env -i PATH="$PATH" HOME="$home" VLLM_CACHE_ROOT="$root" AOTCACHE_URL="$AOTCACHE_URL" \
        AOTCACHE_TOKEN_FILE="$AOTCACHE_TOKEN_FILE" AOTCACHE_TRUSTED_KEYS="$AOTCACHE_TRUSTED_KEYS" \
        timeout "$AOTCACHE_SECONDS" "$AOTCACHE" watch --once 2>&1 \
        | { logger -t aotcache || cat > /dev/null; } # a reader must be there to the end
fi
find "$AOTCACHE_ROOTS" -mindepth 1 -maxdepth 1 -type d -mtime "+$AOTCACHE_KEEP_DAYS" -exec rm -rf {} +
exit 0
