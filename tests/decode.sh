#!/bin/sh
# Decode graphs at random, by hand: `tests/decode.sh [HOW MANY] [FIRST SEED]`. Each is compiled, run on every rank and compared with
# eval; what came of them is printed, or the first that is wrong with its seed. ANNULUS_DECODE_SHOW=SEED shows one.
set -eu
ANNULUS_DECODE_GRAPHS=${1:-20000} ANNULUS_DECODE_SEED=${2:-0} exec cargo test --lib -- inside::decode
