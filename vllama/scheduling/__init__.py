"""Which ready engine serves a model: loaded on demand within the memory there is, unloaded when idle. Knows no HTTP.

The pieces:

* `scheduler`: what the routes need of whoever owns the engines. `local` and `attached` are the two who can be that.
* `engines`: what the scheduler needs of an engine, and of whoever makes engines; `plan`: what an engine takes.
* `resident`: weights in memory or on their way there, with their engine, and, as `tenant`s, the names they are used
  under. Each name has its own time to stay; the engine stays as long as one of them.
* `shelf`: the adapters on one engine, which come and go beside its answers; `placing`: who gets a place there.
* `local`: the door. Lets requests in, or has them wait among the `waiters`; begins what takes memory from nobody:
  downloads, adapters.
* `mover`: a task that alone starts, stops, wakes and puts to sleep engines, one at a time; `room` tells it who has to
  go for whom, `memory` what is free once a driver gave back what it is owed; `queue`: what it needs of the door.
* `failures`: what went wrong with which weights; `attempts`: when the next try is due, or too soon.
* `status`: a resident as clients are told of it, and, as a `report`, those who watch the engines.

The life of a request. `LocalScheduler.acquire` gives a `Lease` at once where the resident of the model's weights is
ready and holds its adapter. Else the request is one of the waiters: its resident is made and fetched where there is
none, and the mover woken. The mover takes the first waiter for whose resident something can be done, asks `room` for
the next step, and does it: evicts an idle engine, closes a busy one to newcomers until it is idle, or starts. After
each step `LocalScheduler.serve` goes through the waiters in the order in which they came: those whose resident is ready
get their lease; for the adapters of the others a place on the shelf is sought. Who leaves (`_leave`) sets the time of
its name running, and has whoever waits looked at again.

What goes wrong. An engine that died is removed like any other. Where somebody waits for it, or one of its names had
time left, a successor takes over those names with that time: at once, after 5 s, after 20 s, then no more within ten
minutes; a successor that does not start counts as one that died. After that those who wait get the cause, and nothing
is started before the next request. What fails while it is fetched or started is told to all who wait, and for some
seconds to those who ask again; what only lacks room is tried at each request. A backoff is a fetch that begins later,
so it keeps nobody else.

What nobody waits for. A successor, and what is to be kept warm, is loaded where nobody waits for whom something can be
done, and where that takes nothing from anybody; it gives way while it starts. Where there is no room, a successor is
dropped; a pinned name, or one kept warm, goes on looking. Pinned names never make room once they are loaded; those
kept warm do, the last of all idle ones, and come back. Neither is unloaded for being idle, nor when asked to.

Rules that hold throughout: what is decided is decided between two awaits, from the state as it is then; the mover
alone ends engines; nobody is let in to an engine that is dead or about to be; the waiters of an engine that died are
as any others; a request that is cancelled leaves the waiters, or its lease, in the same turn of the loop; whatever
changes what `reports` says is noted.

Exports nothing itself: the engine imports `plan`, and the rest of the package the engine.
"""
