# What a job of the chaos's pool of commands runs: N SECONDS STATUS, under the job's lock.
exec 9>>"$CHAOS_HOME/locks/commands-$GRACED_JOB_ID"
note() {
    echo "$1 commands $GRACED_JOB_ID $GRACED_JOB_ATTEMPT $n $$" >>"$CHAOS_HOME/records"
}
n=$1
flock -n 9 || note overlap
note begin
sleep "$2"
note end
exit "$3"
