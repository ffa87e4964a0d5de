#!/bin/sh
# Slurm's Prolog, as root before a job: a directory for the caches of the job's user.
# Whatever happens it ends well: Slurm drains a node whose Prolog fails.
set -u
test -r /etc/aotcache/slurm.env || exit 0
# shellcheck source=deploy/slurm/slurm.env
. /etc/aotcache/slurm.env

user=${SLURM_JOB_UID:?} # set by Slurm
group=$(id -g "$user") || exit 0
# Only root writes in the upper directory, so that nobody puts a link in the place of a user's.
install -d -m 0755 "$AOTCACHE_ROOTS" \
    && install -d -m 0700 -o "$user" -g "$group" "$AOTCACHE_ROOTS/$user" \
    && touch "$AOTCACHE_ROOTS/$user" # its last job
exit 0
