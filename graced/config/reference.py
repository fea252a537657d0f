"""What each key of config.yaml means, in words for users.

``docs/make.py`` makes the reference and the schema of it; nothing else imports it.
"""

from __future__ import annotations

from graced.record import Record


class Doc(Record):
    """The meaning of a key, and an example of its value."""

    meaning: str
    example: str = ""


SECTIONS: dict[str, str] = {
    "": "What concerns the daemon as a whole.",
    "log": "Where log lines go, and how they look.",
    "web": "A page, the metrics and probes over HTTP, by a process without rights; see "
    "[monitoring](monitoring.md#the-page).",
    "pools.NAME": "A pool is a named set of like workers; there has to be at least one. "
    "A name has up to 32 letters and digits, a letter first, with single dashes or "
    "underscores between them. `jobs:` with nothing below it is a pool of defaults.",
    "pools.NAME.backoff": "A worker that dies is replaced at once. If the replacement dies too "
    "without having completed a round, one probe at a time is started, each after a longer "
    "wait: `first`, `first` times `factor`, and so on up to `limit`.",
    "pools.NAME.retry": "A job that raised is tried again after `first`, then after `first` times "
    "`factor`, and so on up to `limit`, until `max_attempts` are over.",
    "schedules.NAME": "A schedule submits jobs to a pool by the clock: exactly one for each of its "
    "instants, whatever is restarted, reloaded or runs twice; see [schedules](schedules.md). It "
    "has `cron` or `every`. A new one starts now; names are as those of pools.",
}

DOCS: dict[str, Doc] = {
    "name": Doc(
        "The daemon's name, in process titles, logs and metrics, and in the default "
        "directories. Fixed while the daemon runs.",
        "shop",
    ),
    "runtime_dir": Doc(
        "Where the control socket and the lock are. Null: `$RUNTIME_DIRECTORY`, else "
        "`/run/NAME` if that can be used, else a private folder of the user, with "
        "`--daemonize` one that does not end with the login. Fixed while the "
        "daemon runs.",
        "/run/shop",
    ),
    "state_dir": Doc(
        "Where queues are. Null: `$STATE_DIRECTORY`, else `/var/lib/NAME` if that can be used, "
        "else `~/.local/state/NAME`. Fixed while the daemon runs.",
        "/var/lib/shop",
    ),
    "user": Doc(
        "Started by root: become this user for good, by name or number, once sockets, log and "
        "folders are open; no process of the daemon is root then. What only root can open is "
        "refused by a reload. Fixed while the daemon runs.",
        "www-data",
    ),
    "group": Doc(
        "As `user`: become this group; null: the user's own. Its members may use the control "
        "socket.",
        "www-data",
    ),
    "max_lease": Doc(
        "The longest critical section: `self.critical(seconds)` with more raises ValueError. No "
        "stop, and no end of a round that takes too long, is held up for longer by one.",
        "10m",
    ),
    "log": Doc("See below."),
    "watchdog_quorum": Doc(
        "How many healthy workers are needed to tell systemd's watchdog that all is well; "
        "0: none. At most as many as all pools have workers.",
        "2",
    ),
    "web": Doc("See below."),
    "pools": Doc("The pools by name, at least one, see below."),
    "schedules": Doc("Jobs that are submitted by the clock, by name, see below."),
    "log.level": Doc("The least level that is written.", "debug"),
    "log.format": Doc(
        "How a line looks: `auto` is `journal` under systemd and `text` else; `json` is one "
        "object a line.",
        "json",
    ),
    "log.file": Doc(
        "Write to this file, not to standard error; needed with `--daemonize`. SIGUSR1 opens it "
        "anew.",
        "/var/log/shop.log",
    ),
    "web.listen": Doc(
        "Addresses to serve on, one or a list, as pools listen. Null: no page. Whoever reaches it "
        "sees jobs and stacks, and can change nothing. Needs `waitress`: `graced[web]`.",
        "tcp://127.0.0.1:9321",
    ),
    "pools.NAME.worker": Doc("The class of the workers, `module:Class`.", "shop.mail:Sender"),
    "pools.NAME.workers": Doc(
        "How many workers; `cpus` is as many as the CPUs that this process may use. All pools "
        "together have at most 1000.",
        "cpus",
    ),
    "pools.NAME.after": Doc(
        "Pools that must be ready before this one starts, and that outlive it.", "[database]"
    ),
    "pools.NAME.preload": Doc(
        "Import the code once, and share the memory among the workers (copy on write). False: "
        "each worker imports it for itself, for code that starts threads while it is imported.",
        "false",
    ),
    "pools.NAME.path": Doc(
        "Folders to put before `sys.path`. What is imported from there is read anew by each "
        "reload.",
        "[src]",
    ),
    "pools.NAME.env": Doc(
        "Environment variables for the workers. Numbers and words such as true are taken as "
        "they are written.",
        "{TZ: UTC, OMP_NUM_THREADS: 1}",
    ),
    "pools.NAME.env_file": Doc(
        "A file of further variables, `KEY=VALUE` in each line; what `env` has goes over it. Read "
        "anew by each reload, and shown nowhere; see [secrets](#secrets).",
        "/etc/shop/jobs.env",
    ),
    "pools.NAME.options": Doc(
        "Whatever the worker wants to know, as `self.options`: texts, numbers, true, false, "
        "null, lists, mappings. What readers of YAML disagree on (`yes`, `010`, `12:30:00`, "
        "dates) has to be in quotes.",
        "{url: https://example.org, size: 128}",
    ),
    "pools.NAME.listen": Doc(
        "Addresses to listen on, one or a list: `tcp://127.0.0.1:8080`, `tcp://[::1]:8080`, "
        "`unix:///run/shop.sock`, or `fd:NAME`, a socket that systemd hands over. The sockets are "
        "opened before the user is changed and stay open over reloads; see "
        "[sockets](sockets.md). `?backlog=100` sets how many connections may wait (1024), "
        "`?mode=0666` the mode of a Unix socket (0660).",
        "[tcp://127.0.0.1:8080, fd:web]",
    ),
    "pools.NAME.concurrency": Doc(
        "How many jobs each worker does at once, from 1 to 10000: of an `AsyncJobWorker`, see "
        "[workers](workers.md#asynchronous-workers). Others do one.",
        "1000",
    ),
    "pools.NAME.ready_timeout": Doc(
        "The longest that a worker may take from its start to the end of `setup()`; also the "
        "longest that importing the code may take.",
        "2m",
    ),
    "pools.NAME.round_timeout": Doc(
        "The longest that a round may take, in a drain too. After it the worker's stack goes to "
        "the log, and the worker is killed. Null: no limit.",
        "10m",
    ),
    "pools.NAME.drain_timeout": Doc(
        "How long a worker may go on with its round when it is asked to leave; then it is "
        "interrupted.",
        "5m",
    ),
    "pools.NAME.stop_timeout": Doc(
        "How long a worker may take to leave after it was interrupted; then it is killed.", "10s"
    ),
    "pools.NAME.max_errors": Doc(
        "How many rounds in a row may raise before the worker is replaced.", "3"
    ),
    "pools.NAME.max_rounds": Doc(
        "Replace a worker after so many rounds, with 10 % jitter. Its replacement is ready "
        "before it leaves, between two rounds; until it is, rounds go on, so there may be more. "
        "Null: never.",
        "10000",
    ),
    "pools.NAME.max_age": Doc("As `max_rounds`: after so long a life.", "1d"),
    "pools.NAME.max_rss": Doc("As `max_rounds`: when it has so much memory.", "300M"),
    "pools.NAME.surge": Doc(
        "How many workers may be ahead while replacing. 0: each slot's old worker leaves before "
        "its replacement starts.",
        "4",
    ),
    "pools.NAME.backoff": Doc("See below."),
    "pools.NAME.queue": Doc(
        "Where the jobs of a `JobWorker` are kept: `sqlite:///FILE` (in `state_dir`) or "
        "`sqlite:////abs/FILE`; each pool needs a file of its own. Null: `sqlite:///NAME.db`, "
        "after the pool. Or on a server that hosts share: `postgresql://USER@HOST/DATABASE`, "
        "`redis://HOST:6379/0`, `rediss://…`, `unix:///PATH`, with `?queue=NAME`, `?schema=NAME` "
        "and `?poll=1s`, see [servers](servers.md).",
        "sqlite:///mail.db",
    ),
    "pools.NAME.max_attempts": Doc(
        "How often a job is tried before it is dead; dead jobs are kept, with the evidence.", "5"
    ),
    "pools.NAME.retry": Doc("See below."),
    "pools.NAME.keep_done": Doc(
        "How long finished jobs are kept: 10 s at least, for those who wait for their result.", "7d"
    ),
    "pools.NAME.max_waiting": Doc(
        "How many jobs may wait; a submit beyond that is refused. `null`: no limit.", "100000"
    ),
    "pools.NAME.lease": Doc(
        "Of a queue on a server: after so long without a word from a host its jobs go to others; "
        "5 s at least. A host that can't renew it stops its own workers before that.",
        "10s",
    ),
    "pools.NAME.submit_group": Doc(
        "A group whose members may submit jobs to this pool and wait for those, and nothing else: "
        "they can't stop the daemon, nor see, take or drop jobs. Null: who may submit may also do "
        "all the rest.",
        "www-data",
    ),
    "pools.NAME.backoff.first": Doc("The wait before the first probe.", "500ms"),
    "pools.NAME.backoff.factor": Doc("How much longer each wait is than the one before.", "1.5"),
    "pools.NAME.backoff.limit": Doc("The longest wait, at least `first`.", "5m"),
    "pools.NAME.backoff.reset": Doc(
        "A probe that has lived so long ends the back-off; as does a completed round, and one that "
        "waits for work and has lived ten times as long as those that died, at least a second.",
        "5m",
    ),
    "pools.NAME.retry.first": Doc("The wait before the second attempt.", "10s"),
    "pools.NAME.retry.factor": Doc("How much longer each wait is than the one before.", "3"),
    "pools.NAME.retry.limit": Doc("The longest wait, at least `first`.", "1h"),
    "schedules.NAME.pool": Doc("The pool that has the jobs; its workers take jobs.", "database"),
    "schedules.NAME.cron": Doc(
        "Minute, hour, day of month, month and day of week, as in cron(5): numbers, names, lists, "
        "ranges, steps; where both days are restricted, one will do; Sunday is 0 and 7. Or "
        "`@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`. A time that a day does not have is "
        "the first instant after it, one that comes twice is the first; an expression whose "
        "minute or hour begins with a star goes by elapsed time.",
        '"30 2 * * mon-fri"',
    ),
    "schedules.NAME.every": Doc(
        "Instead of `cron`: once in so many seconds, counted from 1970-01-01 00:00 UTC so that "
        "all hosts have the same instants. Whole seconds.",
        "10m",
    ),
    "schedules.NAME.zone": Doc(
        "The time zone of `cron`, a name in the IANA's table.", "Europe/Berlin"
    ),
    "schedules.NAME.payload": Doc(
        "What the jobs have as payload: any JSON value. For `Command`: `{argv: [make, report]}`.",
        "{argv: [make, report]}",
    ),
    "schedules.NAME.missed": Doc(
        "What becomes of the instants that fell due while no daemon was there: `skip` all, run the "
        "last one (`once`), or `all` of them, the last 1000 at most.",
        "all",
    ),
    "schedules.NAME.overlap": Doc(
        "`queue`: each instant has its job. `skip`: an instant has none while the job of an "
        "earlier one waits or is in hand.",
        "skip",
    ),
    "schedules.NAME.jitter": Doc(
        "Each job is put off by up to so long, a different time for each instant.", "5m"
    ),
}
