"""Which ready engine serves a model: loaded on demand within the memory there is, unloaded when idle. Knows no HTTP.

The pieces:

* `scheduler`: what the routes need of whoever owns the engines. `local` and `attached` are the two who can be that.
* `engines`: what the scheduler needs of an engine, and of whoever makes engines; `plan`: what an engine takes.
* `resident`: weights in memory or on their way there, with their engine, and as `Tenant`s the names they are used
  under. Each name has its own time to stay; the engine stays as long as one of them.
* `shelf`: the adapters on one engine, which come and go beside its answers.
* `local`: the door. Lets requests in, or has them wait; begins what takes memory from nobody: downloads, adapters.
* `mover`: a task that alone starts, stops, wakes and puts to sleep engines, one at a time; `room` tells it who has to
  go for whom.

The life of a request. `LocalScheduler.acquire` gives a `Lease` at once where the resident of the model's weights is
ready and holds its adapter. Else the request is one of the waiters: its resident is made and fetched where there is
none, and the mover woken. The mover takes the first waiter for whose resident something can be done, asks `room` for
the next step, and does it: evicts an idle engine, closes a busy one to newcomers until it is idle, or starts. After
each step `LocalScheduler.serve` goes through the waiters in the order in which they came: those whose resident is ready
get their lease; for the adapters of the others a place on the shelf is sought. Who leaves (`_leave`) sets the time of
its name running, and has whoever waits looked at again.

Rules that hold throughout: what is decided is decided between two awaits, from the state as it is then; the mover
alone ends engines; an engine that died is as one that has to be removed, and its waiters as any others; a request that
is cancelled leaves the waiters, or its lease, in the same turn of the loop.

Exports nothing itself: the engine imports `plan`, and the rest of the package the engine.
"""
