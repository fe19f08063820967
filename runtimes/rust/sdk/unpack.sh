#!/bin/sh
# Unpacks verified crates as a directory source of cargo: `unpack.sh LIST FOLDER`.
# Each line of LIST: the file, its name without extension, its SHA-256. Of a crate only its own folder is unpacked, and
# nothing is written through a link of it, so that no crate is a part of another one.
set -eu
mkdir -p "$2"
while read -r file name checksum; do
  tar -xzf "$file" -C "$2" --no-same-owner --no-same-permissions "$name"
  rm -f "$2/$name/.cargo-checksum.json"
  printf '{"files":{},"package":"%s"}\n' "$checksum" > "$2/$name/.cargo-checksum.json"
done < "$1"
