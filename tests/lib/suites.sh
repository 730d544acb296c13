# The parts of tests/run: building, lint, unit tests, fuzzers, integration tests, guests and the long modes. Tests run several
# at a time, each in a process group and with a TMPDIR of its own and a time limit; what one leaves behind is a failure,
# and is removed. They are reported in their order. Sourced by tests/run, whose seed, hours and long these read.
# shellcheck shell=bash disable=SC2016,SC2094,SC2154

unit_limit_s=120
integration_limit_s=600
guest_limit_s=3600
fuzz_time_s=10
cpus=$(nproc)
# Integration tests wait more than they compute: for time limits, restarts, a disk that holds a write.
integration_jobs=$((cpus + 2))
# Begun before the others, since these wait for minutes.
integration_slow=(test_target_hardening test_node_hardening test_target_clients test_node_faults test_device_outlives test_conformance)
child=
declare -A built=()
declare -A running=()                # pid → name of each job that runs
declare -A job_dir=() job_status=() # of each job by its name; job_left: what it left behind
declare -A job_left=() job_slot=()
jobs_begun=0

suites_begin() {
    # Short, since unix sockets are made in it; exported, so that what tests leave can be told from other things.
    TMPDIR=$(mktemp -d /tmp/mooring.XXXX)
    export TMPDIR
    export MOORING_SEED=$seed MOORING_HOURS=$hours
    ((!long)) || export MOORING_LONG=1
    ((!guest && !long)) || export MOORING_GUEST=all
    export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
    trap suites_clean EXIT
    trap 'interrupted INT 130' INT
    trap 'interrupted TERM 143' TERM HUP
}

interrupted() {
    trap '' INT TERM HUP
    local pids=("${!running[@]}" ${child:+"$child"})
    if ((${#pids[@]} > 0)); then
        kill -INT "${pids[@]}" 2>/dev/null || true # timeout(1) hands it to the test's process group
        wait "${pids[@]}" || true
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

# job_start NAME SECONDS LOG COMMAND…: as run_limited, in the background. MOORING_TEST_RUN tells its processes from
# those of the others, and MOORING_TEST_SLOT its ports (tests/integration/harness.py).
job_start() {
    local name=$1 limit=$2 log=$3 slot=0
    shift 3
    while [[ " ${job_slot[*]} " == *" $slot "* ]]; do
        slot=$((slot + 1))
    done
    jobs_begun=$((jobs_begun + 1))
    job_slot[$name]=$slot
    job_dir[$name]=$TMPDIR/$jobs_begun
    mkdir -p "${job_dir[$name]}"
    TMPDIR=${job_dir[$name]} MOORING_TEST_RUN=${job_dir[$name]} MOORING_TEST_SLOT=$slot \
        ASAN_OPTIONS="log_path=${job_dir[$name]}/sanitizer" \
        UBSAN_OPTIONS="$UBSAN_OPTIONS:log_path=${job_dir[$name]}/sanitizer" \
        env --default-signal=INT timeout --signal=INT --kill-after=60 "$limit" "$@" >"$log" 2>&1 </dev/null &
    running[$!]=$name
}

# Wait for the end of any job; what it left is taken away before another one begins.
job_wait() {
    local pid='' name status=0
    wait -n -p pid "${!running[@]}" || status=$?
    name=${running[$pid]}
    unset "running[$pid]" "job_slot[$name]"
    job_status[$name]=$status
    job_left[$name]=$(leftovers_settled "${job_dir[$name]}")
    remove_leftovers "${job_dir[$name]}"
}

# run_jobs AT_ONCE START REPORT FIRST NAME…: START NAME begins a job of that name; REPORT NAME STATUS tells of its end,
# in the order of the names. FIRST holds names, separated by blanks, which begin before the others.
run_jobs() {
    local at_once=$1 start=$2 report=$3 first=" $4 " name
    shift 4
    local order=("$@") waiting=()
    for name in "$@"; do
        [[ $first != *" $name "* ]] || waiting+=("$name")
    done
    for name in "$@"; do
        [[ $first == *" $name "* ]] || waiting+=("$name")
    done
    while ((${#order[@]} > 0)); do
        while ((${#waiting[@]} > 0 && ${#running[@]} < at_once)); do
            "$start" "${waiting[0]}"
            waiting=("${waiting[@]:1}")
        done
        job_wait
        while ((${#order[@]} > 0)) && [[ -n ${job_status[${order[0]}]:-} ]]; do
            "$report" "${order[0]}" "${job_status[${order[0]}]}"
            report_sanitizer "${order[0]}"
            check_leftovers "${order[0]}" "${job_left[${order[0]}]}"
            rm -rf --one-file-system "${job_dir[${order[0]}]}"
            order=("${order[@]:1}")
        done
    done
}

# What the sanitizers wrote of a job's processes is kept beside its log.
report_sanitizer() {
    local name=$1 report kept
    for report in "${job_dir[$name]}"/sanitizer.*; do
        [[ -e $report ]] || continue
        kept=$report_dir/${name//\//-}.${report##*/}
        mv "$report" "$kept"
        report_fail "$name is clean under the sanitizers" "a process reported an error" "$kept"
    done
}

# What the job with this TMPDIR left, a line each: its processes whose program was built here, loop devices and mounts
# under it. TMPDIR itself stands for all jobs of this run: another run, or somebody at work, may use the same build.
leftovers() {
    local dir=$1 pid exe
    while read -r pid exe; do
        grep -qzx -e "MOORING_TEST_RUN=$dir" -e "MOORING_TEST_RUN=$dir/.*" "/proc/$pid/environ" 2>/dev/null || continue
        printf 'process %s %s\n' "$pid" "$exe"
    done < <(find /proc -mindepth 2 -maxdepth 2 -name exe -lname "$root/build/*" -printf '%h %l\n' 2>/dev/null |
        sed 's,^/proc/,,')
    awk -v under="$dir/" 'index($2, under) == 1 { print "mount " $2 }' /proc/self/mounts | tac
    losetup --list --noheadings --output NAME,BACK-FILE |
        awk -v under="$dir/" 'index($2, under) == 1 { print "loop " $1 " " $2 }'
}

# A loop device goes with its last user, and that may be someone who only looks, such as another test's losetup: it
# has a while.
leftovers_settled() {
    local left until=$((SECONDS + 5))
    left=$(leftovers "$1")
    while [[ $left == loop\ * ]] && ((SECONDS < until)); do
        sleep 0.2
        left=$(leftovers "$1")
    done
    [[ -z $left ]] || echo "$left"
}

# Mounts last: a loop device whose file's mount is gone shows no path to know it by, and one that goes with its mount
# leaves its number to another test's.
remove_leftovers() {
    local kind what left _rest
    left=$(leftovers "$1")
    while read -r kind what _rest; do
        case $kind in
        process) kill -KILL "$what" 2>/dev/null || true ;;
        mount) umount --lazy "$what" || true ;;
        loop) losetup --detach "$what" || true ;;
        esac
    done < <(grep -v '^mount ' <<<"$left"; grep '^mount ' <<<"$left")
}

check_leftovers() {
    local name=$1 left=$2
    [[ -z $left ]] || report_fail "$name leaves nothing behind" "$(head -n 5 <<<"$left" | tr '\n' ';')"
}

suites_clean() {
    remove_leftovers "$TMPDIR"
    rm -rf --one-file-system "$TMPDIR"
}

suites_end() {
    check_leftovers "the whole run" "$(leftovers_settled "$TMPDIR")"
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

declare -A unit_command=()

unit_log() {
    echo "$report_dir/${1//\//-}.log"
}

unit_start() {
    local words
    IFS=$'\t' read -r -a words <<<"${unit_command[$1]}"
    CMOCKA_MESSAGE_OUTPUT=TAP job_start "$1" "$unit_limit_s" "$(unit_log "$1")" "${words[@]}"
}

unit_done() {
    local name=$1 status=$2 log
    log=$(unit_log "$name")
    if ((status == 0)) && ! grep -q '^1\.\.' "$log"; then
        report_pass "$name" # not of cmocka
    else
        unit_report "$name" "$status" "$log"
    fi
}

suite_unit() {
    local name command names=()
    is_built "$1" unit || return 0
    while IFS=$'\t' read -r name command; do
        unit_command[$1/$name]=$command
        names+=("$1/$name")
    done < <(unit_list "$1")
    ((${#names[@]} > 0)) || report_fail "unit $1" "ctest lists no test"
    run_jobs "$cpus" unit_start unit_done "" "${names[@]}"
}

fuzz_seconds() {
    if ((long)); then
        awk -v hours="$hours" 'BEGIN { print int(hours * 3600) }'
    else
        echo "$fuzz_time_s"
    fi
}

fuzz_start() {
    local name=$1 seconds
    seconds=$(fuzz_seconds)
    mkdir -p "$TMPDIR/corpus-$name" "tests/fuzz/corpus/$name"
    job_start "$name" $((seconds + 120)) "$report_dir/fuzz-$name.log" "build/fuzz/fuzz/$name" -seed="$seed" \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_funcs=0 -print_final_stats=1 \
        -artifact_prefix="$report_dir/$name-" "$TMPDIR/corpus-$name" "tests/fuzz/corpus/$name"
}

fuzz_done() {
    local name=$1 status=$2
    if ((status == 0)); then
        report_pass "fuzz $name"
    else
        report_fail "fuzz $name" "see the input in $report_dir/$name-*" "$report_dir/fuzz-$name.log"
    fi
}

suite_fuzz() {
    local binary names=()
    suite_build fuzz
    is_built fuzz fuzzers || return 0
    for binary in build/fuzz/fuzz/*; do
        [[ ! -f $binary || ! -x $binary ]] || names+=("${binary##*/}")
    done
    ((${#names[@]} > 0)) || report_fail fuzz "there is no fuzzer in build/fuzz/fuzz"
    run_jobs "$cpus" fuzz_start fuzz_done "" "${names[@]}"
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

# A job's name is BUILD/PROGRAM, without .py.
declare -A program_path=() program_limit=()

program_start() {
    local name=$1
    MOORING_BUILD=$root/build/${name%%/*} LSAN_OPTIONS="suppressions=$root/tests/lib/lsan.supp:print_suppressions=0" \
        job_start "$name" "${program_limit[$name]}" "$report_dir/${name//\//-}.log" \
        /usr/bin/python3 "${program_path[$name]}"
}

program_done() {
    local name=$1 status=$2
    integration_report "$name" "$status" "$report_dir/${name//\//-}.log"
}

# run_programs BUILD LIMIT AT_ONCE PROGRAM…
run_programs() {
    local build=$1 limit=$2 at_once=$3 program name names=()
    shift 3
    for program in "$@"; do
        name=$build/${program##*/} name=${name%.py}
        program_path[$name]=$program program_limit[$name]=$limit
        names+=("$name")
    done
    run_jobs "$at_once" program_start program_done "${integration_slow[*]/#/$build/}" "${names[@]}"
}

suite_integration() {
    is_built "$1" integration || return 0
    run_programs "$1" "$integration_limit_s" "$integration_jobs" tests/integration/test_*.py \
        tests/conformance/test_*.py tests/conformance/csi-sanity
}

# Other kernels in QEMU. One that is interpreted is slow: only the FUSE frontend has its turn in every run, and of the others
# the cases that are not run have a line each.
suite_guest() {
    local program
    is_built release guest || return 0
    for program in tests/guest/test_*.py; do
        if [[ -n ${MOORING_GUEST:-} || $program == */test_guest_fuse.py ]]; then
            run_programs release "$guest_limit_s" 1 "$program"
        else
            MOORING_GUEST=none run_programs release "$guest_limit_s" 1 "$program"
        fi
    done
}

# tests/faults and the like: for hours, by flag; some take what they take (the crash points at every system call).
suite_long() {
    local program seconds
    seconds=$(awk -v hours="$hours" 'BEGIN { print int(hours * 3600) + 1800 }')
    ((!long)) || is_built release long || return 0
    for program in tests/faults/test_*.py tests/bench/test_*.py; do
        [[ -e $program ]] || continue
        if ((long)); then
            run_programs release "$seconds" 1 "$program"
        else
            report_skip "${program#tests/}" "a long mode: tests/run --long --hours N"
        fi
    done
}
