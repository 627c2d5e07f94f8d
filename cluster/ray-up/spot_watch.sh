#!/usr/bin/env bash
# Tells Ray when AWS is about to take this spot node: the run then writes a checkpoint. AWS says so
# two minutes before, in the instance's metadata, which Ray's container reaches since it shares the
# machine's network. It ends when the notice has come.
set -uo pipefail

metadata="${METADATA:-http://169.254.169.254/latest}"
seconds="${DRAIN_SECONDS:-90}"

notice() {
    local token
    token=$(curl -sf -m 2 -X PUT "$metadata/api/token" \
        -H 'X-aws-ec2-metadata-token-ttl-seconds: 60') || return 1
    # 404 as long as there is none.
    curl -sf -m 2 -H "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/spot/instance-action"
}

until notice; do
    sleep "${POLL_SECONDS:-5}"
done
exec ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "the spot node goes" \
    --deadline-remaining-seconds "$seconds"
