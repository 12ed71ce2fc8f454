# shellcheck shell=bash
# Steps with a time limit each, within one for all; sourced by tests/gpu.sh and bench/gpu.sh. A step that fails or
# takes too long stops no other, and the summary names it. One that ends with exit code 77 was skipped: it could not
# be done here (no device, no library), which is no failure.
#
#     steps_begin <seconds>                       of the whole script
#     step <name> <seconds at most> <command...>  runs it; its output goes to $steps/<name>.log
#     step_once <folder> <name> <seconds> <command...>  the same in a folder that CMake made, but passed at once where
#                                                 the same command passed before, over the same sources and flags
#     steps_summary                               a line for each step. 1: one failed, found no time or was not run;
#                                                 77: all were skipped; else 0
#
# A function steps_keep of the caller is called before the steps' output goes, also when the script is told to end.

steps_begin() {
  steps=$(mktemp -d)
  trap steps_end_all EXIT
  trap 'exit 143' TERM INT HUP
  steps_end=$((SECONDS + $1))
  steps_skipped=77  # The exit code that says so; empty: none does.
  : > "$steps/outcomes"
}

steps_end_all() {
  local pids running
  pids=$(jobs -rp)
  # shellcheck disable=SC2086  # One argument each.
  [ -z "$pids" ] || kill $pids 2> /dev/null || true
  for running in "$steps"/*.running; do
    [ ! -e "$running" ] || printf '%s\tcut off\tthe script was told to end\n' "$(basename "$running" .running)" >> "$steps/outcomes"
  done
  if declare -F steps_keep > /dev/null; then
    steps_keep
  fi
  rm -rf "$steps"
}

# In a subshell: who is told to end tells its own.
steps_pass_on() { [ "$BASHPID" = $$ ] || trap 'kill $(jobs -rp) 2> /dev/null; exit 143' TERM; }

# Seconds until the script's end.
steps_left() { echo $((steps_end - SECONDS)); }

# The step's outcome as exit code. Steps may run side by side in the background.
step() {
  local name=${1//\//_} limit=$2 log=$steps/${1//\//_}.log begin=$SECONDS left code=0 outcome
  shift 2
  steps_pass_on
  left=$(steps_left)
  if [ "$left" -le 0 ]; then
    printf '%s\t%s\t%s\n' "$name" "not run" "no time left" >> "$steps/outcomes"
    return 1
  fi
  [ "$limit" -le "$left" ] || limit=$left
  : > "$steps/$name.running"
  # Waited for, as that can be interrupted; by one more timeout, since who waits for a device may be beyond a signal.
  timeout --signal=KILL $((limit + 10)) timeout --kill-after=5 "$limit" "$@" > "$log" 2>&1 &
  wait $! || code=$?
  rm -f "$steps/$name.running"
  case $code in
    0) outcome=passed ;;
    "$steps_skipped") outcome=skipped ;;
    124 | 137) outcome="timed out" ;;
    *) outcome=failed ;;
  esac
  printf '%s\t%s\t%s s of %s, exit code %s\n' "$name" "$outcome" $((SECONDS - begin)) "$limit" "$code" >> "$steps/outcomes"
  return "$code"
}

# Copied trees have new times, by which all would be built again: what counts is what is in them.
step_once() {
  local folder=$1 name=$2 limit=$3 code=0 stamp key
  shift 3
  stamp=$folder/$name.passed
  key=$({ find CMakeLists.txt CMakePresets.json src include kernels examples tests bench "$folder/build.ninja" -type f -not -name '*.pyc' 2> /dev/null | LC_ALL=C sort \
    | xargs -d '\n' sha1sum; printf '%s\n' "$@"; } | sha1sum)
  if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$key" ]; then
    printf '%s\t%s\t%s\n' "$name" passed "as before" >> "$steps/outcomes"
    return
  fi
  mkdir -p "$folder"
  rm -f "$stamp"
  step "$name" "$limit" "$@" || code=$?
  [ "$code" != 0 ] || printf '%s\n' "$key" > "$stamp"
  return "$code"
}

# What a step said last, for those who read only the end.
step_tail() { [ ! -e "$steps/$1.log" ] || sed 's/^/    /' "$steps/$1.log" | tail -n "${2:-12}"; }

# Of a family ("memcheck: this", "memcheck: that") those that passed share a line, and so do those that were skipped;
# the others come last.
steps_summary() {
  awk -F '\t' '
    { n[$2]++ }
    ($2 == "passed" || $2 == "skipped") && $1 ~ /: / { sub(/: .*/, "", $1); family[sprintf("%-12s %s", $2, $1)]++; next }
    $2 == "passed" { printf "%-12s %s (%s)\n", $2, $1, $3; next }
    { others = others sprintf("%-12s %s (%s)\n", $2, $1, $3) }
    END {
      for (f in family) printf "%s: %d\n", f, family[f]
      printf "%s", others
      for (o in n) { printf "%s%d %s", s, n[o], o; s = ", " }
      print ""
      if (n["passed"] + n["skipped"] != NR) exit 1
      exit NR && n["skipped"] == NR ? 77 : 0
    }' "$steps/outcomes"
}
