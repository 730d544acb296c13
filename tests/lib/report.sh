# Results of tests: one line each on standard output, counted, with the skipped ones and their reasons listed
# at the end. Sourced by tests/run.
# shellcheck shell=bash

report_begin() {
    report_dir=$1
    report_passed=0 report_failed=0
    report_skipped=() report_failures=()
    rm -rf "$report_dir"
    mkdir -p "$report_dir"
}

report_pass() {
    report_passed=$((report_passed + 1))
    printf 'PASS %s\n' "$1"
}

# report_fail NAME WHY [LOG]: the end of the log is shown below the line.
report_fail() {
    report_failed=$((report_failed + 1))
    report_failures+=("$1: $2")
    printf 'FAIL %s: %s\n' "$1" "$2"
    if [[ -n ${3:-} && -s $3 ]]; then
        tail -n 40 "$3" | sed 's/^/    | /'
        printf '    the whole log: %s\n' "$3"
    fi
}

report_skip() {
    report_skipped+=("$1: $2")
    printf 'SKIP %s: %s\n' "$1" "$2"
}

report_list() {
    local title=$1
    shift
    (($# == 0)) || printf '%s\n' "" "$title" "${@/#/  }"
}

# The last line, and the exit status of the whole.
report_end() {
    report_list "Failed:" "${report_failures[@]}"
    report_list "Skipped:" "${report_skipped[@]}"
    printf '\n%d passed, %d failed, %d skipped\n' "$report_passed" "$report_failed" "${#report_skipped[@]}"
    ((report_failed == 0 && report_passed > 0))
}
