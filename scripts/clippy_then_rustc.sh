#!/usr/bin/env bash
# Cargo's RUSTC_WORKSPACE_WRAPPER in the tests' build: clippy reads each crate of ours, then rustc compiles
# it. `cargo clippy` would check every dependency once more, for the same answers.
set -euo pipefail
rustc=$1
shift
arguments=("$@")

if [[ " ${arguments[*]} " == *" --crate-name "* && " ${arguments[*]} " != *" --print"* ]]; then
  clippy=${rustc%rustc}clippy-driver
  nothing=$(mktemp -d)
  trap 'rm -rf "$nothing"' EXIT
  # What clippy reads it does not keep: the artifacts, and the news of them, are rustc's.
  lint=()
  while [ $# -gt 0 ]; do
    case $1 in
      --emit=*) lint+=(--emit=metadata) ;;
      --json=*) lint+=(--json=diagnostic-rendered-ansi) ;;
      --out-dir) lint+=(--out-dir "$nothing"); shift ;;
      -C) if [[ $2 != incremental=* ]]; then lint+=(-C "$2"); fi; shift ;;
      *) lint+=("$1") ;;
    esac
    shift
  done
  "$clippy" "$rustc" "${lint[@]}" -D warnings
  # What follows takes the place of this shell, and the trap with it.
  rm -rf "$nothing"
fi

exec "$rustc" "${arguments[@]}"
