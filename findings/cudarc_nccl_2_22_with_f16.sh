#!/usr/bin/env bash
# cudarc 0.19.10: the features `nccl-02022` and `f16` do not compile together.
#
# Both are features that its manifest offers, and nothing says that they exclude each other. The bindings that `nccl-02022` selects end at
# ncclFloat64, and what `f16` adds names ncclBfloat16. With `nccl-02024` in its place it compiles.
#
# Should: compile. Seen, with cargo 1.95:
#   error[E0599]: no variant or associated item named `ncclBfloat16` found for enum `ncclDataType_t` in the current scope
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cargo init --quiet --lib --name probe
tried() { # the features of NCCL
  cat > Cargo.toml <<TOML
[package]
name = "probe"
version = "0.0.0"
edition = "2021"

[dependencies]
cudarc = { version = "=0.19.10", default-features = false, features = ["std", "driver", "f16", "dynamic-loading", "cuda-13000", "$1"] }
TOML
  CARGO_TERM_COLOR=never cargo check --quiet 2>&1 || true
}
seen=$(tried nccl-02022)
if ! grep -q 'no variant or associated item named `ncclBfloat16` found for enum `ncclDataType_t`' <<< "$seen"; then
  printf 'changed: with nccl-02022 it says\n%s\n' "$seen"
  exit 1
fi
other=$(tried nccl-02024)
if [ -n "$other" ]; then
  printf 'changed: with nccl-02024 it says\n%s\n' "$other"
  exit 1
fi
echo "as stated: nccl-02022 with f16 does not compile, nccl-02024 does"
