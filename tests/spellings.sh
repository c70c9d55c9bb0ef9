#!/bin/sh
# Random spellings of one attention, many more than the suite tries: tests/spellings.sh [COUNT], 100000 unless said otherwise.
#
# Each is found unless it is none, or NaN in it is made a number, and computes what it did: see tests/inside/find/spellings.rs.
set -eu
count=${1:-100000}
case $count in
'' | *[!0-9]*)
    echo "tests/spellings.sh: $count is no number of spellings; usage: tests/spellings.sh [COUNT]" >&2
    exit 2
    ;;
esac
cd "$(dirname "$0")/.."
echo "$count spellings; the last line says whether all passed"
PROPTEST_CASES=$count exec cargo test --lib -- --nocapture inside::find::spellings::every_spelling_is_found
