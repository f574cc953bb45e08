"""Run tasks in other processes, on this machine or on a cluster, through joblib.

`Jobs` holds a user's options: how many processes, and on which machines. Workers may
join, leave and die, so every task runs at least once and some run twice: a task that
runs twice must leave the same result. This package does not know what a task does.

| module | contents |
|---|---|
| `jobs` | the options, and running tasks until each has a result |
| `cluster` | a Dask cluster: connecting to it, and checking its workers |
"""

from featpipe.parallel.jobs import Jobs, Pool, as_jobs, threads_here, worker_name

__all__ = ["Jobs", "Pool", "as_jobs", "threads_here", "worker_name"]
