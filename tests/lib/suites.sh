# The parts of tests/run: building, lint, unit tests, fuzzers, integration tests and the long modes. A test runs
# in a process group of its own with a time limit; what it leaves behind is a failure, and is removed.
# Sourced by tests/run, whose seed, hours and long these read.
# shellcheck shell=bash disable=SC2016,SC2094,SC2154

unit_limit_s=120
integration_limit_s=600
fuzz_time_s=10
child=
declare -A built=()

suites_begin() {
    # Short, since unix sockets are made in it; exported, so that what tests leave can be told from other things.
    TMPDIR=$(mktemp -d /tmp/mooring.XXXXXX)
    export TMPDIR
    export MOORING_SEED=$seed MOORING_HOURS=$hours
    ((!long)) || export MOORING_LONG=1
    export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
    export LSAN_OPTIONS="suppressions=$root/tests/lib/lsan.supp:print_suppressions=0"
    trap suites_clean EXIT
    trap 'interrupted INT 130' INT
    trap 'interrupted TERM 143' TERM HUP
}

interrupted() {
    trap '' INT TERM HUP
    if [[ -n $child ]]; then
        kill -INT "$child" 2>/dev/null || true # timeout(1) hands it to the test's process group
        wait "$child" || true
    fi
    echo "tests/run: stopped by SIG$1" >&2
    exit "$2"
}

# run_limited SECONDS LOG COMMAND…: its exit status; 124 when it took too long. SIGINT is what Python's tests
# clean up after, and a shell's background command would ignore it.
run_limited() {
    local limit=$1 log=$2 status=0
    shift 2
    env --default-signal=INT timeout --signal=INT --kill-after=60 "$limit" "$@" >"$log" 2>&1 </dev/null &
    child=$!
    wait "$child" || status=$?
    child=
    return "$status"
}

# What tests left, a line each: processes whose program was built here, loop devices and mounts under TMPDIR.
leftovers() {
    local exe
    for exe in /proc/[0-9]*/exe; do
        case $(readlink "$exe" 2>/dev/null) in
        "$root"/build/*) printf 'process %s %s\n' "$(cut -d/ -f3 <<<"$exe")" "$(readlink "$exe")" ;;
        esac
    done
    awk -v under="$TMPDIR/" 'index($2, under) == 1 { print "mount " $2 }' /proc/self/mounts | tac
    losetup --list --noheadings --output NAME,BACK-FILE |
        awk -v under="$TMPDIR/" 'index($2, under) == 1 { print "loop " $1 " " $2 }'
}

remove_leftovers() {
    local kind what _rest
    leftovers | while read -r kind what _rest; do
        case $kind in
        process) kill -KILL "$what" 2>/dev/null || true ;;
        mount) umount --lazy "$what" || true ;;
        loop) losetup --detach "$what" || true ;;
        esac
    done
}

check_leftovers() {
    local name=$1 left
    left=$(leftovers)
    [[ -n $left ]] || return 0
    report_fail "$name leaves nothing behind" "$(head -n 5 <<<"$left" | tr '\n' ';')"
    remove_leftovers
}

suites_clean() {
    remove_leftovers
    rm -rf --one-file-system "$TMPDIR"
}

suites_end() {
    check_leftovers "the whole run"
}

# Configured afresh: a folder left from other settings must not decide what is tested. What is up to date stays built.
suite_build() {
    local preset=$1 log=$report_dir/build-$1.log
    if run_limited 3600 "$log" bash -c 'cmake --fresh --preset "$1" && cmake --build --preset "$1"' - "$preset"; then
        built[$preset]=1
        report_pass "build $preset"
    else
        report_fail "build $preset" "cmake failed" "$log"
    fi
}

# What is left of an earlier build must not be tested in place of one that failed.
is_built() {
    [[ -n ${built[$1]:-} ]] || report_fail "$2 $1" "not run, since its build failed"
    [[ -n ${built[$1]:-} ]]
}

suite_lint() {
    local log=$report_dir/lint.log
    if run_limited 3600 "$log" scripts/lint; then
        report_pass lint
    else
        report_fail lint "findings" "$log"
    fi
}

# Count each case of a cmocka binary by its TAP lines; a crash is a failure of its own. The lines after a failed
# case say why.
unit_report() {
    local name=$1 status=$2 log=$3 line planned=0 seen=0 failed=0 pending='' why='' said=''
    while IFS= read -r line; do
        if [[ -n $pending && $line == '# '* && ! $line =~ ^\#\ (not\ )?ok ]]; then
            line=${line#'# '}
            why+="${why:+; }${line#"$root/"}"
            continue
        fi
        [[ -z $pending ]] || report_fail "$pending" "${why:-see $log}"
        pending='' why=''
        [[ $line != 'ERROR: '* ]] || said=${line#ERROR: } # fail_msg()'s words come before their case
        if [[ $line =~ ^1\.\.([0-9]+)$ ]]; then
            planned=$((planned + BASH_REMATCH[1]))
        elif [[ $line =~ ^(not )?ok\ [0-9]+\ \#\ SKIP\ (.*)$ ]]; then
            seen=$((seen + 1))
            report_skip "$name ${BASH_REMATCH[2]}" "the test found what it needs missing"
        elif [[ $line =~ ^ok\ [0-9]+\ -\ (.*)$ ]]; then
            seen=$((seen + 1))
            report_pass "$name ${BASH_REMATCH[1]}"
        elif [[ $line =~ ^not\ ok\ [0-9]+\ -\ (.*)$ ]]; then
            seen=$((seen + 1)) failed=$((failed + 1))
            pending="$name ${BASH_REMATCH[1]}" why=$said said=''
        fi
    done < <(cat "$log" && echo)
    if ((status == 124)); then
        report_fail "$name" "took longer than $unit_limit_s s" "$log"
    elif ((seen < planned)); then
        report_fail "$name" "ended with status $status after $seen of $planned cases" "$log"
    elif ((status != 0 && failed == 0)); then
        report_fail "$name" "exit status $status" "$log"
    fi
}

# Name and command of each test that ctest knows: the folder may hold one that is no more.
unit_list() {
    ctest --test-dir "build/$1" --show-only=json-v1 | /usr/bin/python3 -c 'import json, sys
for test in json.load(sys.stdin)["tests"]:
    print(test["name"], *test.get("command", ["not-built"]), sep="\t")'
}

suite_unit() {
    local words name status log
    is_built "$1" unit || return 0
    while IFS=$'\t' read -r -a words; do
        name=$1/${words[0]} status=0 log=$report_dir/$1-${words[0]}.log
        CMOCKA_MESSAGE_OUTPUT=TAP run_limited "$unit_limit_s" "$log" "${words[@]:1}" || status=$?
        if ((status == 0)) && ! grep -q '^1\.\.' "$log"; then
            report_pass "$name" # not of cmocka
        else
            unit_report "$name" "$status" "$log"
        fi
    done < <(unit_list "$1")
}

suite_fuzz() {
    local binary name corpus log seconds=$fuzz_time_s
    ((!long)) || seconds=$(awk -v hours="$hours" 'BEGIN { print int(hours * 3600) }')
    suite_build fuzz
    is_built fuzz fuzzers || return 0
    for binary in build/fuzz/fuzz/*; do
        [[ -f $binary && -x $binary ]] || continue
        name=${binary##*/} corpus=$TMPDIR/corpus-${binary##*/} log=$report_dir/fuzz-${binary##*/}.log
        mkdir -p "$corpus" "tests/fuzz/corpus/$name"
        if run_limited $((seconds + 120)) "$log" "$binary" -seed="$seed" -max_total_time="$seconds" -timeout=20 \
            -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$report_dir/$name-" "$corpus" \
            "tests/fuzz/corpus/$name"; then
            report_pass "fuzz $name"
        else
            report_fail "fuzz $name" "see the input in $report_dir/$name-*" "$log"
        fi
    done
    ((long)) || report_skip "fuzz for hours" "a long mode: tests/run --long --hours N"
}

# Read a test program's PASS, FAIL and SKIP lines. Their order is kept; other output stays in the log.
integration_report() {
    local name=$1 status=$2 log=$3 line lines=0 failed=0
    while IFS= read -r line; do
        case $line in
        'PASS '*) report_pass "$name ${line#PASS }" ;;
        'SKIP '*': '*) line=${line#SKIP } && report_skip "$name ${line%%: *}" "${line#*: }" ;;
        'SKIP '*) report_fail "$name ${line#SKIP }" "skipped without a reason" ;;
        'FAIL '*)
            line=${line#FAIL } failed=$((failed + 1))
            report_fail "$name ${line%%: *}" "${line#*: }" "$([[ $failed != 1 ]] || echo "$log")"
            ;;
        *) continue ;;
        esac
        lines=$((lines + 1))
    done <"$log"
    if ((status == 124)); then
        report_fail "$name" "took longer than $integration_limit_s s" "$log"
    elif ((status != 0 && failed == 0)); then
        report_fail "$name" "exit status $status without a FAIL line" "$log"
    elif ((status == 0 && failed > 0)); then
        report_fail "$name" "exit status 0 in spite of a FAIL line" "$log"
    elif ((lines == 0)); then
        report_fail "$name" "reported no test" "$log"
    fi
}

run_program() {
    local build=$1 program=$2 limit=$3 name status=0 log report
    name=$build/${program##*/} name=${name%.py}
    log=$report_dir/${name//\//-}.log
    MOORING_BUILD=$root/build/$build ASAN_OPTIONS="log_path=$TMPDIR/sanitizer" \
        UBSAN_OPTIONS="$UBSAN_OPTIONS:log_path=$TMPDIR/sanitizer" run_limited "$limit" "$log" /usr/bin/python3 "$program" || status=$?
    integration_report "$name" "$status" "$log"
    for report in "$TMPDIR"/sanitizer.*; do
        [[ -e $report ]] || continue
        mv "$report" "$report_dir/${name//\//-}.${report##*/}"
        report_fail "$name is clean under the sanitizers" "a process reported an error" \
            "$report_dir/${name//\//-}.${report##*/}"
    done
    check_leftovers "$name"
}

suite_integration() {
    local program
    is_built "$1" integration || return 0
    for program in tests/integration/test_*.py; do
        run_program "$1" "$program" "$integration_limit_s"
    done
}

# tests/faults and the like: for hours, by flag.
suite_long() {
    local program seconds
    seconds=$(awk -v hours="$hours" 'BEGIN { print int(hours * 3600) + 600 }')
    ((!long)) || is_built release long || return 0
    for program in tests/faults/test_*.py tests/bench/test_*.py; do
        [[ -e $program ]] || continue
        if ((long)); then
            run_program release "$program" "$seconds"
        else
            report_skip "${program#tests/}" "a long mode: tests/run --long --hours N"
        fi
    done
}
