# shellcheck shell=bash
# Counts tests for the scripts that run them, which end with the line "N passed, N failed". Sourced after lib.sh.

passed=0
# A stage that fails and has no tests of its own counts as one.
failed=0
failures=()

# finish: prints the totals when the script ends, for whatever reason.
finish() {
    local status=$?
    trap '' INT TERM
    if [ $status -ne 0 ] && [ $failed -eq 0 ]; then
        failed=1
        failures+=("${0##*/} itself")
    fi
    printf '\n'
    [ $failed -eq 0 ] || printf 'failed: %s\n' "${failures[@]}"
    printf '%d passed, %d failed\n' "$passed" "$failed"
    [ "$failed" -eq 0 ] || exit 1
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# fail WHAT: counts one more failure.
fail() {
    failed=$((failed + 1))
    failures+=("$*")
}

# stage NAME COMMAND...: runs a command; prints its name before, and its duration afterwards.
stage() {
    local name=$1 began status=0
    shift
    printf '\n== %s\n' "$name"
    began=$(microseconds)
    "$@" || status=$?
    printf '== %s: %s after %s s\n' "$name" "$([ $status -eq 0 ] && echo "done" || echo "FAILED")" "$(seconds_since "$began")"
    return $status
}

# suite SCRIPT [ARGUMENT]...: runs a script that ends with such a line, and adds up its counts and failures.
suite() {
    # shellcheck disable=SC2154 # lib.sh sets target
    local log=$target/suite-${1##*/}.log status=0 line counts=
    mkdir -p "$target"
    "$@" 2>&1 | tee "$log" || status=$?
    while IFS= read -r line; do
        case $line in
            "failed: "*) failures+=("${line#failed: }") ;;
            *) counts=$line ;;
        esac
    done < <(grep -E '^(failed: .*|[0-9]+ passed, [0-9]+ failed)$' "$log")
    if [[ $counts =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
        passed=$((passed + BASH_REMATCH[1]))
        failed=$((failed + BASH_REMATCH[2]))
        [ $status -eq 0 ] || [ "${BASH_REMATCH[2]}" -gt 0 ] || fail "$1: status $status"
    else
        fail "$1 ended without a count"
    fi
    return $status
}
