#!/bin/sh
# Process 1 of the node: containerd and kubelet in a mount and a process namespace of their own. Its end ends every
# container, and every mount goes with it; what both keep in fixed places of a machine lies below $1.
set -eu
folder=$1
mount --make-rshared /
for place in /run/containerd /var/lib/kubelet /var/lib/cni /var/log/containers /var/log/pods; do
  mkdir -p "$folder/node$place"
  mount --bind "$folder/node$place" "$place"
done
# The kubelet writes these and would change the machine: it sees files in their place.
for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys \
  kernel/keys/root_maxbytes; do
  copy=$folder/node/$(echo "$name" | tr / -)
  cat "/proc/sys/$name" >"$copy"
  mount --bind "$copy" "/proc/sys/$name"
done
containerd --config "$folder/containerd.toml" >"$folder/containerd.log" 2>&1 &
"$2/kubelet" --config "$folder/kubelet.json" --kubeconfig "$folder/kubelet.kubeconfig" --hostname-override localhost \
  --node-ip "$3" --root-dir "$folder/kubelet" --cert-dir "$folder/pki/kubelet" >"$folder/kubelet.log" 2>&1 &
# A shell reaps what others leave to process 1.
wait
