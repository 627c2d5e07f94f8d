#!/usr/bin/env bash
# Refuses files of this folder that still hold a word in CAPITALS for you to fill in, or an image
# that is not named by its digest:
#   cluster/unfilled.sh cluster/kuberay/base/*.yaml && kubectl apply -k cluster/kuberay/base
set -euo pipefail

words='REGISTRY|DIGEST|AMI|FILE_SYSTEM|SECURITY_GROUP|ACCOUNT|BUCKET|USER|SUBNET|ZONE'
words+='|NODE_CLASS|QUEUE|CORES|GPUS|[A-Z0-9_]+_ADDRESS'
left=0
for file in "${@:?give the files to look at}"; do
    if sed 's/#.*//' "$file" | grep -nEw "$words"; then
        echo "error: $file is not filled in yet; README.md says where each word comes from" >&2
        left=1
    fi
    if grep -nE '^[^#]*image:' "$file" | grep -vE 'image: *"?[^ "]+@sha256:[0-9a-f]{64}"?$'; then
        echo "error: $file must name its images by digest, as in NAME@sha256:..." >&2
        left=1
    fi
done
exit "$left"
