#!/bin/sh
# Schedules of queries and heads that travel, run by another reading of their text: tests/interpreter.sh [SCHEDULES] [SEED], by hand.
#
# Random attentions are compiled; tests/interpreter/schedule.py, which shares nothing with the executor but the text, runs each schedule in
# six random orders over memory full of NaN; what comes out is compared with attention written out in f64.
set -eu
count=${1:-500}
case $count in
'' | *[!0-9]*)
    echo "tests/interpreter.sh: $count is no number of schedules; usage: tests/interpreter.sh [SCHEDULES] [SEED]" >&2
    exit 2
    ;;
esac
cd "$(dirname "$0")/.."
cargo build --quiet
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.3.5
PYTHONDONTWRITEBYTECODE=1 "$folder/venv/bin/python" tests/interpreter/run.py target/debug/annulus "$count" "${2:-0}"
