#!/bin/sh
# What the tests do a little on the stand-ins of CUDA (tests/standins), all of it: every place of every planted fault in the programs
# of all strategies; every golden and every bundled model on 1 to 4 ranks by every strategy. Half an hour on two cores.
#
#   tests/standins.sh            # all three
#   tests/standins.sh faults     # or goldens, or models
set -eu
cd "$(dirname "$0")/.."
what=${1:-all}
sweep() {
    [ "$what" = all ] || [ "$what" = "$1" ] || return 0
    shift
    "$@" -- --ignored --nocapture --exact "$test"
}
test=inside::standins::planted::long::all_faults_by_hand
sweep faults cargo test --lib
test=inside::standins::goldens::long::goldens_on_every_number_of_ranks_by_every_strategy
sweep goldens cargo test --lib
test=cuda::long::every_model_on_every_number_of_ranks_by_every_strategy
sweep models cargo test --test cli
