#!/bin/sh
# What `etcd-operator pivot --boot-command` calls where boot etcd is a plain process: boot-command.sh drain|kill|start.
# An example for installers; tests/boot_is_no_pod.rs runs it.
#
#   BOOT_DIR  on boot's machine: `run`, a script that becomes boot etcd (exec etcd …), and what this one notes there
#   BOOT_ON   how to run a command on boot's machine, "ssh root@192.0.2.10"; empty = here
set -eu
: "${BOOT_DIR:?where boot is kept}"
case ${1:-} in drain | kill | start) ;; *) echo "usage: $0 drain|kill|start" >&2; exit 2 ;; esac
if [ -n "${BOOT_ON:-}" ]; then
    # Over there, so that what is left behind there outlives this machine too.
    exec $BOOT_ON env BOOT_ON= BOOT_DIR="$BOOT_DIR" sh -s -- "$1" <"$0"
fi

# Seconds after SIGTERM in which boot must be removed, or it is started again.
GIVE_UP=10
cd "$BOOT_DIR"
# One at a time: between a look at `removed` and a start, nobody may come with `kill`.
exec 9>lock
flock 9

# Its PID, if it runs; a PID that was reused is another program's.
running() {
    pid=$(cat pid 2>/dev/null) && [ -n "$pid" ] && tr '\0' '\n' 2>/dev/null <"/proc/$pid/cmdline" | head -n 1 | grep -q '/etcd$'
}

start() {
    if [ -e removed ] || running; then return 0; fi
    # Of a session of its own, and without our lock: it outlives us.
    setsid sh ./run </dev/null >>log 2>&1 9>&- &
    echo $! >pid
}

case $1 in
start)
    start
    ;;
drain)
    # Once is enough: its watchdog waits.
    [ ! -e draining ] || [ "$(cat draining)" != "$(cat pid)" ] || exit 0
    running || { echo "boot does not run" >&2; exit 1; }
    echo "$pid" >draining
    # The watchdog is there before the signal is sent. Whoever called us may be gone by then.
    (
        exec 9>&-
        sleep "$GIVE_UP"
        # Ends by itself, at the latest after 7 s.
        while running && [ "$pid" = "$(cat draining)" ]; do sleep 0.1; done
        exec 9>lock
        flock 9
        start
    ) </dev/null >/dev/null 2>&1 &
    kill -TERM "$pid"
    ;;
kill)
    : >removed
    if running; then kill -KILL "$pid"; fi
    ;;
esac
