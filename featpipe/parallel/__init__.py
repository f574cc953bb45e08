"""Tasks in other processes, on this machine or on a cluster, through joblib.

`Jobs` has the options of a user: the number of processes, and their machines. Every
task is done at least once: workers may die, come and go, and a task may run twice, so
tasks must be such that doing them twice changes nothing. Knows nothing of what a task
is.

| module | what lives there |
|---|---|
| `jobs` | the request, and running tasks until each has a result |
| `cluster` | a Dask cluster: is a scheduler there, are workers, have they our version |
"""

from featpipe.parallel.jobs import Jobs, Pool, as_jobs, threads_here, worker_name

__all__ = ["Jobs", "Pool", "as_jobs", "threads_here", "worker_name"]
